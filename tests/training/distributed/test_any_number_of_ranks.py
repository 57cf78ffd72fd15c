"""Every number of ranks up to that of streams trains on the same batches, and goes on where another one stopped."""

import shutil
from pathlib import Path

import pytest

from modernbert_train.checkpoints.run_files import list_checkpoints
from modernbert_train.cli import main
from tests.acceptance.test_launch import assert_same_steps
from tests.helpers.launching import read_steps
from tests.helpers.spawned import launch

# Eight streams: three ranks have 3, 3 and 2 of them, five 2, 2, 2, 1 and 1, seven 2 and 1. At full size, a rank has two
# rows of a stream and micro-batches of two rows, so that some add whole micro-batches of padding; in the ramp, one row.
# Each rank draws its own dropout, so losses agree only without dropout.
OPTIONS = [
    "data.num_streams=8",
    "model.attn_out_dropout=0",
    "model.num_hidden_layers=2",
    "phases.pretrain.batch_tokens=4096",
    "phases.pretrain.batch_ramp.start_tokens=2048",
    "phases.pretrain.tokens=20K",
    "phases.extension.tokens=12K",
    "phases.extension.decay_tokens=12K",
    "data.num_workers=0",
    "training.save_every_tokens=4K",
    "training.keep_checkpoints=100",
]


def train(world_size: int, tiny: Path, run: Path) -> Path:
    """Train, or go on, with a number of ranks."""
    done = launch(world_size, "train", tiny, f"run_folder={run}", *OPTIONS)
    assert done.returncode == 0, done.stdout
    assert ("% padding" in done.stdout) == (8 % world_size > 0)
    return run


def stopped(run: Path, after: int) -> Path:
    """Remove what the run did after its checkpoint number `after`."""
    kept = list_checkpoints(run)[after]
    for path in list_checkpoints(run)[after + 1 :]:
        path.unlink()
        path.with_suffix(".json").unlink()
    steps = int(kept.stem.removeprefix("step-"))
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[: steps + 1]))
    return run


@pytest.fixture(scope="module")
def one(tiny: Path) -> Path:
    run = tiny.parent / "one"
    assert main(["train", str(tiny), f"run_folder={run}", *OPTIONS]) == 0
    assert [step["batch_tokens"] for step in read_steps(run)] == [2048] * 2 + [4096] * 7
    return run


def test_three_ranks_train_as_one_and_two_go_on(tiny, tmp_path, one):
    three = train(3, tiny, tmp_path / "three")
    assert_same_steps(three, one)
    two = train(2, tiny, stopped(shutil.copytree(three, tmp_path / "two"), after=1))
    assert_same_steps(two, one)


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [5, 7, 8])
def test_more_ranks_train_as_one(tiny, tmp_path, one, world_size):
    assert_same_steps(train(world_size, tiny, tmp_path / "run"), one)


@pytest.mark.slow
def test_the_number_of_ranks_changes_again_and_again(tiny, tmp_path, one):
    run = train(7, tiny, tmp_path / "run")
    for after, world_size in enumerate((5, 3, 1, 2, 7)):
        assert_same_steps(train(world_size, tiny, stopped(run, after)), one)


def test_a_dry_run_for_some_ranks(tiny, capsys, tmp_path):
    command = ["train", str(tiny), f"run_folder={tmp_path}", "--dry-run", "--gpus"]
    assert main([*command, "3"]) == 0
    assert "1 with 2 streams, 2 with 1" in capsys.readouterr().out
    assert main([*command, "5"]) == 2
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "data.num_streams is 4, less than the number of ranks (5), each of which reads at least one"
        in printed
    )
