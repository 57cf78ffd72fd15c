"""A run that is killed or stopped by a signal and restarted equals the uninterrupted run, bit for bit."""

import pytest
import torch

from modernbert_train.checkpoints.checkpoint import read_average, resolve
from tests.helpers import kill
from tests.helpers.recipes import make_tiny
from tests.helpers.spawned import start

KILLED = ["training.save_every_tokens=2K", "--kills", "2"]
# With four ranks, the order of summation matters as well. The moving average of the weights goes on, too.
FOUR_RANKS = [
    "training.save_every_tokens=2K", "training.ema_half_life_tokens=6K", "phases.extension=null", "--kills", "2",
]  # fmt: skip
ASKED_TO_STOP = ["--ask", "--kills", "2"]


@pytest.mark.parametrize(
    ("options", "world_size"), [(KILLED, 1), (FOUR_RANKS, 4), (ASKED_TO_STOP, 1), (ASKED_TO_STOP, 2)]
)
def test_an_interrupted_run_equals_the_uninterrupted_one(tmp_path, options, world_size):
    arguments = [str(make_tiny(tmp_path)), *options, "--world-size", str(world_size)]
    done = start(kill.main, arguments).finish(500)
    assert done.returncode == 0, done.stdout[-3000:]
    assert f"{options[-1]} kills (" in done.stdout
    assert "lines of metrics and all weights equal, bit for bit" in done.stdout
    if options is FOUR_RANKS:
        averages = [read_average(resolve(tmp_path / run)) for run in ("killed", "undisturbed")]
        assert all(torch.equal(averages[0][name], averages[1][name]) for name in averages[0])
