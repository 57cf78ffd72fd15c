"""Killed, or asked to stop by a signal, and started again, a run is the one never disturbed, bit for bit."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.recipes import make_tiny

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("world_size", [1, 4])  # of more than two ranks the order of sums matters as well
def test_a_killed_run_is_the_undisturbed_one(tmp_path, world_size):
    recipe = make_tiny(tmp_path)
    command = [sys.executable, "-W", "ignore", "-m", "tests.training.kill", str(recipe)]
    options = ["training.save_every_tokens=2K", "--kills", "4", "--world-size", str(world_size)]
    done = subprocess.run([*command, *options], cwd=REPOSITORY, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "4 kills (" in done.stdout
    assert "lines of metrics and all weights equal, bit for bit" in done.stdout


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_run_that_was_asked_to_stop_is_the_undisturbed_one(tmp_path, world_size):
    recipe = make_tiny(tmp_path)
    command = [sys.executable, "-W", "ignore", "-m", "tests.training.kill", str(recipe)]
    options = ["--ask", "--kills", "3", "--world-size", str(world_size)]
    done = subprocess.run([*command, *options], cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "3 kills (" in done.stdout
    assert "lines of metrics and all weights equal, bit for bit" in done.stdout
