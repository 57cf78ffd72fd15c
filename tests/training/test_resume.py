"""Killed, or asked to stop by a signal, and started again, a run is the one never disturbed, bit for bit."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.recipes import make_tiny

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize(
    ("kills", "options"),
    [(4, ["training.save_every_tokens=2K"]), (3, ["--ask"])],
    ids=["killed", "asked to stop"],
)
def test_a_disturbed_run_is_the_undisturbed_one(tmp_path, kills, options, world_size):
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tests.training.kill",
        str(make_tiny(tmp_path)),
        *options,
    ]
    command += ["--kills", str(kills), "--world-size", str(world_size)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{kills} kills (" in done.stdout
    assert "lines of metrics and all weights equal, bit for bit" in done.stdout
