"""What a run goes on from: its own newest good checkpoint, or nothing if it has not saved one yet.

A checkpoint is judged by what it holds itself, never by the recipe.yaml beside it, which may be another's or lost. The
checks read the checkpoint's JSON file and, without loading them, the tensors of its `.pt` file.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from modernbert_train.checkpoints.checkpoint import (
    check_weights,
    checkpoint_path,
    find_latest,
    read_state,
    verify,
    was_interrupted,
    weights_in,
)
from modernbert_train.checkpoints.info import CheckpointInfo, read_info
from modernbert_train.checkpoints.provenance import check_unchanged, run_of
from modernbert_train.checkpoints.rewind import step_of
from modernbert_train.checkpoints.run_files import (
    CHECKPOINT_FOLDER,
    METRICS_FILE,
    POSITIONS_FILE,
    list_checkpoints,
    read_lines,
)
from modernbert_train.config.architecture import TIED_WEIGHT
from modernbert_train.config.comparison import architecture_settings, changed_settings
from modernbert_train.data.plan import fingerprint_at
from modernbert_train.optim.optimizer import OPTIMIZER_CLASSES
from modernbert_train.schedule import RunSchedule
from modernbert_train.training.callbacks.checkpoints import checkpoint_info
from modernbert_train.training.distributed.ranks import on_rank_zero
from modernbert_train.training.run import Run

log = logging.getLogger(__name__)


def find_checkpoint(run: Run, from_scratch: bool = False) -> tuple[Path, CheckpointInfo] | None:
    """Return the checkpoint to go on from, None if the run starts. Collective.

    Args:
        run: The run.
        from_scratch: Whether to start the run again if its checkpoints are lost or damaged.

    Raises:
        ValueError: The checkpoint is not one of this run and recipe, holds weights only, or all are lost or damaged.
    """
    checkpoint = on_rank_zero(lambda: _find_checkpoint(run, from_scratch))
    if checkpoint is not None:
        log.info("resuming from %s", checkpoint[0])
    return checkpoint


def _find_checkpoint(run: Run, from_scratch: bool) -> tuple[Path, CheckpointInfo] | None:
    try:
        path = find_latest(run.folder)
    except ValueError:
        if not from_scratch:
            raise
        return None
    if path is None:
        if not from_scratch:
            check_not_lost(run)
        return None
    info = read_info(path)
    if info.weights_only:
        raise ValueError(
            f"run_folder is {run.folder}, in which {path.name} holds weights without optimizer state, as `import` and "
            "`average` write them, so no run can resume from it; name another run_folder, and start from these weights "
            f"with init.from={run.folder}"
        )
    check_unchanged(run.folder, run.recipe)
    _check_one_run(run.folder)
    if info.step > run.schedule.total_steps:
        path, info = _last_of_recipe(run, path, info)
    _check_own(run, path, info)
    return path, info


def check_not_lost(run: Run) -> None:
    """Check that a run without checkpoints has not saved any.

    A run that ended before its first save starts again by itself, since nothing is lost.

    Raises:
        ValueError: Its records say that it has.
    """
    saved = [record["step"] for _, record in read_lines(run.folder / POSITIONS_FILE)]
    logged = [record["step"] for _, record in read_lines(run.folder / METRICS_FILE)]
    every_tokens = run.recipe.training.save_every_tokens
    due = (step for step in range(1, max(logged, default=0)) if run.schedule.is_due(step - 1, every_tokens))
    # The line of positions.jsonl comes before the checkpoint that it belongs to.
    if saved and not (len(saved) == 1 and was_interrupted(run.folder, saved[0])):
        evidence = f"{POSITIONS_FILE} says that the run has saved one after step {max(saved)}"
    elif (step := next(due, None)) is not None:
        evidence = f"{METRICS_FILE} has step {max(logged)}, and one was due after step {step}"
    else:
        return
    raise ValueError(
        f"{run.folder / CHECKPOINT_FOLDER}: there is no checkpoint in it, but {evidence}; bring the checkpoints back "
        "(is their disk mounted?), or train again from the first step with --restart-from-scratch, which keeps the old "
        "records in a folder of their own"
    )


def _check_one_run(folder: Path) -> None:
    """Check that all checkpoints of a run folder, and its provenance.json, are of one run; older ones do not say."""
    runs: dict[str, Path] = {}
    if (recorded := run_of(folder)) is not None:
        runs[recorded] = folder
    for path in list_checkpoints(folder):
        try:
            run = read_info(path).run
        except ValueError:
            continue  # damaged
        if run is not None:
            runs.setdefault(run, path)
    if len(runs) > 1:
        (one, where), (other, path), *_ = runs.items()
        raise ValueError(
            f"{path} is a checkpoint of the run {other}, and {where} is of the run {one}: move what was copied here "
            "from elsewhere to a folder of its own, each .pt with its .json"
        )


def _last_of_recipe(run: Run, path: Path, info: CheckpointInfo) -> tuple[Path, CheckpointInfo]:
    """Return the checkpoint of the recipe's last step, for a run that has come further."""
    last = run.schedule.total_steps
    file = checkpoint_path(run.folder, last)
    if file.is_file():
        return file, verify(file)
    earlier = [step for step in map(step_of, list_checkpoints(run.folder)) if step < last]
    back = f", go back with `modernbert rewind {run.folder} --step {earlier[-1]}`" if earlier else ""
    raise ValueError(
        f"{path} was made after step {info.step:,}, but the recipe ends after step {last:,}: restore the tokens of its "
        f"phases{back}, or name another run_folder"
    )


def _check_own(run: Run, path: Path, info: CheckpointInfo) -> None:
    """Check that a checkpoint is one that this recipe makes.

    Raises:
        ValueError: It has another model, tokenizer, optimizer, schedule or data.
    """
    recipe, tokenizer = run.recipe, run.inputs.tokenizer
    was, is_now = architecture_settings(info.model), architecture_settings(recipe.model)
    # A table of positions has a size, which has no counterpart in a model without one.
    changed = {
        key: change for key, change in changed_settings(was, is_now).items() if key in was and key in is_now
    }
    if changed:
        changes = [f"{key} was {before}, is {now}" for key, (before, now) in changed.items()]
        raise ValueError(
            f"{', '.join(changes)}: the checkpoints in {run.folder} have another architecture; restore the value, or "
            "choose another run_folder"
        )
    if info.tokenizer_fingerprint != tokenizer.fingerprint:
        raise ValueError(
            f"data.tokenizer is {recipe.data.tokenizer} (fingerprint {tokenizer.fingerprint[:12]}): the checkpoints in "
            f"{run.folder} have another tokenizer (fingerprint {info.tokenizer_fingerprint[:12]}); restore it and the "
            "stores made with it, or choose another run_folder"
        )
    check_clock(run.schedule, path, info)
    state = read_state(path)
    weights = weights_in(state, path)
    check_weights(path, weights, recipe.model, "the recipe")
    _check_optimizer(run, path, state, weights)
    _check_data(run, path, info, state)


def check_clock(schedule: RunSchedule, path: Path, info: CheckpointInfo) -> None:
    """Check that the recipe puts the checkpoint's step where the run made it: past phases must not change.

    Raises:
        ValueError: The recipe now has other tokens, or another phase, at this step.
    """
    by_recipe = checkpoint_info(schedule, info.step, info.model, info.tokenizer_fingerprint)
    if by_recipe.tokens != info.tokens:
        mismatch = (
            f"{info.step} steps are {by_recipe.tokens:,} tokens by the recipe, but {path} was made after "
            f"{info.tokens:,}"
        )
    elif (by_recipe.phase, by_recipe.phase_step) != (info.phase, info.phase_step):
        mismatch = (
            f"step {info.step} is number {by_recipe.phase_step} of {by_recipe.phase} by the recipe, but {path} was "
            f"made after number {info.phase_step} of {info.phase}"
        )
    else:
        return
    raise ValueError(
        f"phases: {mismatch}: names, tokens, batch_tokens, batch_ramp or row_tokens of phases that have begun were "
        "changed; restore them, or start a new run from its weights with init.from"
    )


def _check_optimizer(run: Run, path: Path, state: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    kinds = {kind.__qualname__: name for name, kind in OPTIMIZER_CLASSES.items()}
    optimizers, name = _dict(state.get("optimizers")), run.recipe.optimizer.name
    kept = [kinds.get(kind, repr(kind)) for kind in optimizers]
    if kept != [name]:
        raise ValueError(
            f"optimizer.name was {', '.join(kept) or 'none'}, is {name}: the checkpoints in {run.folder} hold the old "
            "optimizer's state; restore the value, or start a new run from its weights with init.from"
        )
    (optimizer,) = optimizers.values()
    trained = {f"model.{name}": weight for name, weight in weights.items() if name != TIED_WEIGHT}
    moments = _dict(_dict(optimizer).get("state"))
    differing = sorted(moments.keys() ^ trained.keys(), key=str)
    differing += [name for name in moments.keys() & trained.keys() if not _fits(moments[name], trained[name])]
    if differing:
        raise ValueError(
            f"{path}: its optimizer's state does not fit {differing[0]!r}, nor {len(differing) - 1} more of its "
            "weights; restore the original file, or start a new run from its weights with init.from"
        )


def _fits(moments: object, weight: torch.Tensor) -> bool:
    """Check whether what an optimizer keeps of a weight are tensors of its shape, or numbers."""
    tensors = [value for value in _dict(moments).values() if isinstance(value, torch.Tensor)]
    return isinstance(moments, dict) and all(
        tensor.shape == weight.shape or tensor.ndim == 0 for tensor in tensors
    )


def _check_data(run: Run, path: Path, info: CheckpointInfo, state: dict[str, Any]) -> None:
    rows = _dict(_dict(state.get("dataset_state")).get("train"))
    clock = _dict(_dict(state.get("timestamp")).get("Timestamp"))
    if any(step != info.step for step in (clock.get("batch"), rows.get("step"))):
        raise ValueError(
            f"{path}: its JSON file says step {info.step}, its clock {clock.get('batch')} and its position in the data "
            f"{rows.get('step')}; restore the original files"
        )
    by_recipe = fingerprint_at(run.phases, info.step, run.inputs.masking)
    if rows.get("fingerprint") != by_recipe:
        raise ValueError(
            f"data: {path} was made with other data, mixture, num_streams, context, objective, mask rate or seed "
            f"(fingerprint {rows.get('fingerprint')}) than the recipe has for this phase (fingerprint {by_recipe}); "
            "restore them, or start a new run from its weights with init.from"
        )
    if problems := list(_position_problems(rows, run)):
        raise ValueError(f"{path}: {problems[0]}; restore the original file")


def _position_problems(rows: dict[str, Any], run: Run) -> Iterator[str]:
    positions, tokens = _dict(rows.get("positions")), _dict(rows.get("source_tokens"))
    if sorted(positions, key=str) != sorted(range(run.recipe.data.num_streams), key=str) or not all(
        isinstance(at, tuple) and len(at) == 2 and all(type(number) is int and number >= 0 for number in at)
        for at in positions.values()
    ):
        yield "it holds no position of every stream"
    if not all(type(number) is int for number in tokens.values()):
        yield "it holds no number of tokens of every source"


def _dict(value: object) -> dict[Any, Any]:
    """Return a dict of the state of a checkpoint; an empty one if it is something else."""
    return value if isinstance(value, dict) else {}
