"""Checkpoints on disk: written completely or not at all, and verified before use.

A checkpoint is two files in `RUN/checkpoints`: `step-00000120.pt` (what Composer saves: weights, optimizer, position in
the data) and `step-00000120.json` (`CheckpointInfo`: size and SHA-256 of the `.pt` file, and what is needed to rebuild
the model). The `.pt` is written under a temporary name and renamed only after it is on the disk and the JSON file is
complete. A `.pt` without a matching JSON file was therefore damaged later, and a temporary file is an interrupted save,
which is ignored.

A `.pt` file is a pickle, which can run code when it is loaded. All of them, also those that a run resumes from, are
therefore loaded with torch's restricted unpickler, which accepts tensors and the two other types that Composer stores.
"""

from __future__ import annotations

import copy
import dataclasses
import datetime
import logging
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from modernbert_train.checkpoints.info import CheckpointInfo, info_file, read_info
from modernbert_train.checkpoints.run_files import (
    CHECKPOINT_FOLDER,
    CHECKPOINT_NAME,
    describe_missing,
    list_checkpoints,
)
from modernbert_train.common.errors import naming
from modernbert_train.common.files import flush, sha256, write_atomically
from modernbert_train.common.text import without_breaks
from modernbert_train.config import ModelConfig
from modernbert_train.config.architecture import EMBEDDING, TIED_WEIGHT, weight_shapes

log = logging.getLogger(__name__)

# Composer saves the module that wraps our encoder under this name.
_MODEL_PREFIX = "model."
# Prefix of a file that is being written; an interrupted save leaves one behind.
_UNFINISHED = ".saving-"


class _Ignored:
    """Stands for NumPy's types in older checkpoints: the state of its random generator, which no run ever needed."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


# What Composer stores besides tensors and plain containers.
_ALLOWED_TYPES = [datetime.timedelta, torch.torch_version.TorchVersion]
_NUMPY_TYPES = (
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
)
_ALLOWED = [*_ALLOWED_TYPES, *((_Ignored, name) for name in _NUMPY_TYPES)]


def checkpoint_path(run: str | Path, step: int) -> Path:
    """Return the path of the checkpoint after `step` optimizer steps."""
    return Path(run) / CHECKPOINT_FOLDER / f"step-{step:08d}.pt"


def unfinished_path(path: Path) -> Path:
    """Return the temporary path of a checkpoint that is being written, and create its folder in the run folder.

    The run folder exists: one that was renamed is not made anew.
    """
    path.parent.mkdir(exist_ok=True)
    return _unfinished(path)


def was_interrupted(run: str | Path, step: int) -> bool:
    """Check whether the save after `step` steps was begun and never finished."""
    return _unfinished(checkpoint_path(run, step)).exists()


def _unfinished(path: Path) -> Path:
    return path.with_name(f"{_UNFINISHED}{path.name}")


def finish_checkpoint(path: Path, info: CheckpointInfo) -> None:
    """Flush the file at `unfinished_path(path)`, write its JSON file, and rename it to `path`."""
    unfinished = unfinished_path(path)
    flush(unfinished)
    info = dataclasses.replace(info, bytes=unfinished.stat().st_size, sha256=sha256(unfinished))
    write_atomically(info_file(path), info.to_json())
    os.replace(unfinished, path)
    flush(path.parent)


def verify(path: Path) -> CheckpointInfo:
    """Check that a checkpoint's bytes are those that were written, and are of the step in its name.

    Returns:
        Its facts.

    Raises:
        ValueError: The checkpoint or its JSON file is missing or damaged.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint")
    info = read_info(path)
    size = path.stat().st_size
    if size != info.bytes:
        raise ValueError(f"{path}: damaged: {size} bytes where {info.bytes} were written")
    if sha256(path) != info.sha256:
        raise ValueError(f"{path}: damaged: its SHA-256 differs from the one that was written")
    named = CHECKPOINT_NAME.fullmatch(path.stem)
    if named and int(named[1]) != info.step:
        raise ValueError(
            f"{path}: its JSON file is that of step {info.step}; restore its own, or its own name"
        )
    return info


def find_latest(run: str | Path) -> Path | None:
    """Find the newest good checkpoint of a run. Damaged ones are skipped, with an error in the log.

    Returns:
        Its path; None for a run that has no checkpoint yet.

    Raises:
        ValueError: There are checkpoints, but all are damaged: restarting from scratch would discard the run.
    """
    checkpoints = list_checkpoints(run)
    for path in reversed(checkpoints):
        try:
            verify(path)
        except ValueError as error:
            log.error("CHECKPOINT SKIPPED: %s", error)
        else:
            return path
    if checkpoints:
        raise ValueError(
            f"{Path(run) / CHECKPOINT_FOLDER}: none of its {len(checkpoints)} checkpoint(s) can be read (see the lines "
            "above); restore one from a copy, or start again with another run_folder or with --restart-from-scratch"
        )
    return None


def prune(run: str | Path, keep: int, newest_step: int) -> None:
    """Delete old checkpoints, and what interrupted saves and deletions left.

    The ends of phases (`CheckpointInfo.keep`) stay, and so do checkpoints after `newest_step`: an interrupted run left
    them, and they were skipped for a reason.

    Args:
        run: The run folder.
        keep: Number of checkpoints up to `newest_step` that stay.
        newest_step: Step of the checkpoint that was just saved.
    """
    remove_leftovers(run)
    newest = checkpoint_path(run, newest_step)
    for path in [path for path in list_checkpoints(run) if path.name <= newest.name][:-keep]:
        try:
            info = read_info(path)
        except ValueError as error:
            log.warning("not deleted: %s", error)
            continue
        if not info.keep:
            path.unlink()
            info_file(path).unlink()


def remove_leftovers(run: str | Path) -> None:
    """Delete the files of interrupted saves, and JSON files whose `.pt` is gone."""
    folder = Path(run) / CHECKPOINT_FOLDER
    for path in folder.glob(f"{_UNFINISHED}*"):
        path.unlink()
    for path in folder.glob("step-*.json"):
        if not path.with_suffix(".pt").exists():
            path.unlink()


def resolve(source: str | Path) -> Path:
    """Return the verified checkpoint file that a run folder (its newest good one) or a `.pt` path names.

    Raises:
        ValueError: There is none, or it is damaged.
    """
    path = Path(source)
    if path.suffix == ".pt":
        verify(path)
        return path
    if not path.is_dir():
        raise ValueError(describe_missing(path))
    latest = find_latest(path)
    if latest is None:
        raise ValueError(f"{path}: no checkpoint in it; expected {path / CHECKPOINT_FOLDER}/step-*.pt")
    return latest


def load_tensors(file: Path, mapped: bool = True) -> Any:
    """Load a file that `torch.save` wrote to the CPU, without running code that it may contain.

    Args:
        file: The file.
        mapped: Whether to memory-map the tensors where possible: what is not used is not read, and the file must stay
            in place.

    Returns:
        The object that was saved.

    Raises:
        ValueError: The file holds anything but tensors and the types that Composer stores, or is not such a file.
    """
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            # torch maps zip files only, which it has written since version 1.6.
            mapped = mapped and zipfile.is_zipfile(file)
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged pickle raises almost any of them
        called = re.search(r"GLOBAL (\S+)", str(error))
        problem = f"refers to {called[1]}, which could run code" if called else "cannot be read as tensors"
        raise ValueError(
            f"{file}: refused: its pickle {problem}; use a file that training or Transformers wrote"
        ) from error


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a verified checkpoint file to the CPU, without the optimizer's state.

    Returns:
        Transformers' name of a weight -> its value.

    Raises:
        ValueError: See `read_state`.
    """
    # Copied, so that the weights outlive the mapped file.
    return copy.deepcopy(weights_in(read_state(path), path))


def read_average(path: Path) -> dict[str, torch.Tensor]:
    """Read the moving average in a verified checkpoint file, under the names of `read_weights`.

    Returns:
        Transformers' name of a weight -> its average.

    Raises:
        ValueError: There is none; see also `load_tensors`.
    """
    callbacks = read_state(path).get("callbacks")
    average = callbacks.get("WeightAverage") if isinstance(callbacks, dict) else None
    weights = average.get("weights") if isinstance(average, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise ValueError(
            f"{path}: holds no moving average; a run keeps one if training.ema_half_life_tokens is above 0"
        )
    weights = copy.deepcopy(_tensors(weights, path))
    return {**weights, TIED_WEIGHT: weights[EMBEDDING]} if EMBEDDING in weights else weights


def read_state(path: Path, mapped: bool = True) -> dict[str, Any]:
    """Read what Composer saved of a run.

    Args:
        path: A verified checkpoint file.
        mapped: See `load_tensors`.

    Returns:
        Name of a part, such as "model" or "optimizers" -> its state.

    Raises:
        ValueError: The file cannot be read without running code, or is no checkpoint.
    """
    content = load_tensors(path, mapped)
    state = content.get("state") if isinstance(content, dict) else None
    if not isinstance(state, dict) or "model" not in state:
        raise ValueError(
            f"{path}: holds no state of a model, as a checkpoint does; use a file that training wrote"
        )
    return state


def weights_in(state: Mapping[str, Any], path: Path) -> dict[str, torch.Tensor]:
    """Return the weights in the state that `read_state` returns, under Transformers' names.

    Raises:
        ValueError: They are not tensors by their names.
    """
    tensors = _tensors(state["model"], path)
    return {name.removeprefix(_MODEL_PREFIX): value for name, value in tensors.items()}


def _tensors(content: object, path: Path) -> dict[str, torch.Tensor]:
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    ):
        raise ValueError(f"{path}: holds something else in place of weights; use a file that training wrote")
    return content


def check_weights(path: Path, weights: Mapping[str, torch.Tensor], model: ModelConfig, whose: str) -> None:
    """Check that weights are those of a model: all of them, no others, each of its shape, in floating point.

    Args:
        path: Of the checkpoint.
        weights: Transformers' name of a weight -> its value.
        model: The model.
        whose: What has the model, for the message: the recipe, or the checkpoint's JSON file.

    Raises:
        ValueError: They are not.
    """
    expected = weight_shapes(model)
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    problems = [
        f"{name} is {_shape(found.get(name))} in it, {_shape(expected.get(name))} by {whose}"
        for name in dict.fromkeys([*expected, *found])
        if found.get(name) != expected.get(name)
    ]
    problems += [
        f"{name} has numbers of type {str(weight.dtype).removeprefix('torch.')}"
        for name, weight in weights.items()
        if not weight.is_floating_point()
    ]
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(
            f"{path} holds the weights of another model: {without_breaks('; '.join(problems[:3]))}{more}; restore the "
            "original file"
        )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else str(list(shape))


def save_weights(folder: str | Path, state_dict: dict[str, torch.Tensor], info: CheckpointInfo) -> Path:
    """Write weights (Transformers' names) as a checkpoint without optimizer state, for `init.from`."""
    content = {"state": {"model": {_MODEL_PREFIX + name: value for name, value in state_dict.items()}}}
    path = checkpoint_path(folder, info.step)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Opened here: of a file that torch opens itself, it does not say why it cannot be written.
    with naming(path), unfinished_path(path).open("wb") as file:
        torch.save(content, file)
    finish_checkpoint(path, dataclasses.replace(info, weights_only=True))
    return path


def run_folder_of(checkpoint: Path) -> Path:
    """Return the run folder of a checkpoint, which holds its tokenizer and recipe."""
    return checkpoint.parent.parent
