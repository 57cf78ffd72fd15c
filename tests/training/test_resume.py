"""A run that is killed or stopped by a signal and restarted equals the uninterrupted run, bit for bit."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.recipes import make_tiny

REPOSITORY = Path(__file__).parents[2]


KILLED = ["training.save_every_tokens=2K", "--kills", "4"]
ASKED_TO_STOP = ["--ask", "--kills", "3"]


@pytest.mark.parametrize(
    ("options", "world_size"),
    [
        (KILLED, 1),
        (KILLED, 4),
        (ASKED_TO_STOP, 1),
        (ASKED_TO_STOP, 2),
    ],  # with four ranks, the order of summation matters as well
)
def test_an_interrupted_run_equals_the_uninterrupted_one(tmp_path, options, world_size):
    command = [sys.executable, "-W", "ignore", "-m", "tests.helpers.kill", str(make_tiny(tmp_path))]
    command += [*options, "--world-size", str(world_size)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{options[-1]} kills (" in done.stdout
    assert "lines of metrics and all weights equal, bit for bit" in done.stdout
