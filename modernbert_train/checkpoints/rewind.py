"""Going back to an earlier checkpoint of a run. What came after it is moved aside, never deleted."""

from __future__ import annotations

import logging
from pathlib import Path

from modernbert_train.checkpoints.checkpoint import checkpoint_path, remove_leftovers, verify
from modernbert_train.checkpoints.info import info_file, read_info
from modernbert_train.checkpoints.run_files import (
    CHECKPOINT_FOLDER,
    EVALUATION_FILE,
    METRICS_FILE,
    POSITIONS_FILE,
    PROVENANCE_FILE,
    WANDB_ID_FILE,
    WATCH_FILE,
    list_checkpoints,
    move_after,
    unused,
)
from modernbert_train.common.text import format_table

log = logging.getLogger(__name__)


def rewind(run: Path, step: int) -> str:
    """Make the checkpoint after `step` the newest one of a run, from which it resumes.

    Later checkpoints, later lines of metrics and positions, and the id of the W&B run (which takes no earlier steps any
    more) are moved to a new folder in the run folder. After an interruption, the same call moves the rest.

    Args:
        run: The run folder, in which no run is active.
        step: Number of steps.

    Returns:
        What was done, for people.

    Raises:
        ValueError: There is no checkpoint of this step to resume from.
    """
    checkpoints = _checkpoints(run)
    if step not in checkpoints:
        raise ValueError(
            f"--step is {step}, but {run} has no checkpoint of it; it has {', '.join(map(str, checkpoints))}"
        )
    if verify(checkpoint_path(run, step)).weights_only:
        raise ValueError(f"{checkpoints[step]} holds weights only, so no run can resume from it")
    later = [path for number, path in checkpoints.items() if number > step]
    aside = _new_folder(run / f"after-step-{step:08d}")
    num_lines = move_after(run / METRICS_FILE, step, aside)
    for name in (POSITIONS_FILE, WATCH_FILE):
        move_after(run / name, step, aside)
    for path in reversed(later):  # newest first: the run has no gap if this is interrupted
        for file in (path, info_file(path)):
            target = aside / file.relative_to(run)
            target.parent.mkdir(exist_ok=True)
            if file.exists():
                file.rename(target)
    if (run / WANDB_ID_FILE).exists() and (later or num_lines):
        (run / WANDB_ID_FILE).rename(aside / WANDB_ID_FILE)
    if not any(aside.iterdir()):
        aside.rmdir()
        return f"{run} is at step {step} already"
    moved = f"{len(later)} later checkpoint{'' if len(later) == 1 else 's'} and {num_lines} lines of metrics"
    return f"{run} resumes after step {step}; {moved} were moved to {aside}"


def list_steps(run: Path) -> str:
    """Return a table of the checkpoints that `rewind` can go back to.

    Raises:
        ValueError: There are none.
    """
    checkpoints = _checkpoints(run)
    infos = {step: read_info(path) for step, path in checkpoints.items()}
    rows = [
        (f"{step:,}", f"{info.tokens:,}", info.phase) for step, info in infos.items() if not info.weights_only
    ]
    return format_table(("step", "tokens", "phase"), rows)


def _checkpoints(run: Path) -> dict[int, Path]:
    """Return step -> checkpoint, in the order of the steps."""
    checkpoints = {step_of(path): path for path in list_checkpoints(run)}
    if not checkpoints:
        raise ValueError(f"{run}: no checkpoint in it; name the folder of a run that has saved one")
    return checkpoints


def start_over(run: Path) -> None:
    """Move what is left of a run that has begun, and has no good checkpoint, to a new folder in the run folder."""
    if not any((run / name).exists() for name in (METRICS_FILE, POSITIONS_FILE)) and not list_checkpoints(
        run
    ):
        return
    remove_leftovers(run)
    aside = _new_folder(run / "before-restart")
    moved = (
        METRICS_FILE, POSITIONS_FILE, PROVENANCE_FILE, EVALUATION_FILE, WATCH_FILE, WANDB_ID_FILE, CHECKPOINT_FOLDER,
    )  # fmt: skip
    for name in moved:
        if (run / name).exists():
            (run / name).rename(aside / name)
    log.warning(
        "%s has no good checkpoint and starts from its first step; its records were moved to %s", run, aside
    )


def describe_way_back(run: Path) -> str:
    """Return how to go on after a loss that is not finite, which the newest checkpoint may lead to again."""
    steps = [step_of(path) for path in list_checkpoints(run)]
    if not steps:
        return "No checkpoint was saved yet."
    if len(steps) == 1:
        return f"The run resumes after step {steps[0]}, its only checkpoint."
    return (
        f"The run resumes after step {steps[-1]}. If this happens again, that checkpoint may be ruined as well: go "
        f"back to an earlier one with `modernbert rewind {run} --step {steps[-2]}`."
    )


def step_of(checkpoint: Path) -> int:
    """Return the step in the name of a checkpoint file."""
    return int(checkpoint.stem.removeprefix("step-"))


def _new_folder(folder: Path) -> Path:
    new = unused(folder)
    new.mkdir()
    return new
