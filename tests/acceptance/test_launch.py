"""Two processes train like one, and resume a run of one process, and the reverse; test_cluster.py has launchers."""

import shutil
from pathlib import Path

import pytest

from modernbert_train.checkpoints.run_files import list_checkpoints
from modernbert_train.cli import main
from tests.helpers import spawned
from tests.helpers.launching import read_steps

# Each rank draws its own dropout, so the losses of one and two processes agree only without dropout.
OVERRIDES = ("model.attn_out_dropout=0", "training.keep_checkpoints=100")


@pytest.fixture(scope="module")
def one(tiny: Path) -> Path:
    """The run of one process."""
    run = tiny.parent / "one"
    assert main(["train", str(tiny), f"run_folder={run}", *OVERRIDES]) == 0
    return run


@pytest.fixture(scope="module")
def two(tiny: Path) -> Path:
    """The run of two processes."""
    run = tiny.parent / "two"
    done = spawned.launch(2, "train", tiny, f"run_folder={run}", *OVERRIDES)
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in done.stdout
    return run


def stopped_after_its_first_checkpoint(run: Path, copy: Path) -> Path:
    """Copy a run as it was two steps after its first checkpoint."""
    shutil.copytree(run, copy)
    first, *later = list_checkpoints(copy)
    for path in later:
        path.unlink()
        path.with_suffix(".json").unlink()
    steps = int(first.stem.removeprefix("step-"))
    assert 0 < steps < len(read_steps(run)) - 5
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(lines[: steps + 2]))
    return copy


def assert_same_steps(run: Path, other: Path, num_steps: int | None = None) -> None:
    """Check that the rows of every batch are the same, and the losses up to the order of summation.

    Args:
        run: a run folder.
        other: the run folder of a whole run.
        num_steps: those that `run` has; None: all.
    """
    mine, others = read_steps(run), read_steps(other)[:num_steps]
    for name in ("step", "tokens", "batch_crc32", "fill", "lr"):
        assert [step[name] for step in mine] == [step[name] for step in others]
    assert [step["loss"] for step in mine] == pytest.approx([step["loss"] for step in others], abs=1e-5)
    assert [step["grad_norm"] for step in mine] == pytest.approx(
        [step["grad_norm"] for step in others], rel=1e-4
    )


def test_two_processes_train_as_one(one, two):
    assert_same_steps(one, two)


def test_one_process_resumes_where_two_stopped(tiny, one, two, tmp_path):
    run = stopped_after_its_first_checkpoint(two, tmp_path / "run")
    assert main(["train", str(tiny), f"run_folder={run}", *OVERRIDES]) == 0
    assert_same_steps(run, one)


def test_two_processes_resume_where_one_stopped(tiny, one, tmp_path):
    run = stopped_after_its_first_checkpoint(one, tmp_path / "run")
    done = spawned.launch(2, "train", tiny, f"run_folder={run}", *OVERRIDES)
    assert done.returncode == 0, done.stdout
    assert "resuming from " in done.stdout
    assert_same_steps(run, one)
