"""A run that is killed or stopped by a signal and restarted equals the uninterrupted run, bit for bit."""

import pytest

from tests.helpers import kill
from tests.helpers.recipes import make_tiny
from tests.helpers.spawned import start

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
    arguments = [str(make_tiny(tmp_path)), *options, "--world-size", str(world_size)]
    done = start(kill.main, arguments).finish(500)
    assert done.returncode == 0, done.stdout[-3000:]
    assert f"{options[-1]} kills (" in done.stdout
    assert "lines of metrics and all weights equal, bit for bit" in done.stdout
