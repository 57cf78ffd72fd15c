"""Checkpoints on disk: written completely or not at all, and verified before use.

A checkpoint is two files in `RUN/checkpoints`: `step-00000120.pt` (what Composer saves: weights, optimizer, position in
the data) and `step-00000120.json` (`CheckpointInfo`: size and SHA-256 of the `.pt` file, and what is needed to rebuild
the model). The `.pt` is written under a temporary name and renamed only after it is on the disk and the JSON file is
complete. A `.pt` without a matching JSON file was therefore damaged later, and a temporary file is an interrupted save,
which is ignored.

A `.pt` file is a pickle, which can run code when it is loaded. Files that a user names are therefore loaded with
torch's restricted unpickler, which accepts tensors and the few other types that Composer stores.
"""

from __future__ import annotations

import copy
import dataclasses
import datetime
import logging
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modernbert_train.checkpoints.info import CheckpointInfo, info_file, read_info
from modernbert_train.checkpoints.run_files import CHECKPOINT_FOLDER, describe_missing, list_checkpoints
from modernbert_train.common.errors import writing
from modernbert_train.common.files import flush, sha256, write_atomically
from modernbert_train.config.architecture import EMBEDDING, TIED_WEIGHT

log = logging.getLogger(__name__)

# Composer saves the module that wraps our encoder under this name.
_MODEL_PREFIX = "model."
# Prefix of a file that is being written; an interrupted save leaves one behind.
_UNFINISHED = ".saving-"
# What Composer stores besides tensors and plain containers: the state of NumPy's generator, times, versions.
_ALLOWED_TYPES = [
    np.array(0).__reduce__()[0],
    np.ndarray,
    np.dtype,
    type(np.dtype(np.uint32)),
    datetime.timedelta,
    torch.torch_version.TorchVersion,
]


def checkpoint_path(run: str | Path, step: int) -> Path:
    """Return the path of the checkpoint after `step` optimizer steps."""
    return Path(run) / CHECKPOINT_FOLDER / f"step-{step:08d}.pt"


def unfinished_path(path: Path) -> Path:
    """Return the temporary path of a checkpoint that is being written, and create its folder in the run folder.

    The run folder exists: one that was renamed is not made anew.
    """
    path.parent.mkdir(exist_ok=True)
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
    """Check that a checkpoint's bytes are those that were written.

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
            "above); restore one from a copy, or start again with another run_folder"
        )
    return None


def prune(run: str | Path, keep: int, newest_step: int) -> None:
    """Delete old checkpoints, and the files of interrupted saves.

    The ends of phases (`CheckpointInfo.keep`) stay, and so do checkpoints after `newest_step`: an interrupted run left
    them, and they were skipped for a reason.

    Args:
        run: The run folder.
        keep: Number of checkpoints up to `newest_step` that stay.
        newest_step: Step of the checkpoint that was just saved.
    """
    for path in (Path(run) / CHECKPOINT_FOLDER).glob(f"{_UNFINISHED}*"):
        path.unlink()
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


def load_tensors(file: Path) -> Any:
    """Load a file that `torch.save` wrote to the CPU, without running code that it may contain.

    The tensors are memory-mapped where possible: what is not used is not read, and the file must stay in place.

    Returns:
        The object that was saved.

    Raises:
        ValueError: The file holds anything but tensors and the types that Composer stores, or is not such a file.
    """
    try:
        with torch.serialization.safe_globals(_ALLOWED_TYPES):
            # torch maps zip files only, which it has written since version 1.6.
            return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
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
        ValueError: See `load_tensors`.
    """
    model = load_tensors(path)["state"]["model"]
    # Copied, so that the weights outlive the mapped file.
    return {name.removeprefix(_MODEL_PREFIX): value for name, value in copy.deepcopy(model).items()}


def read_average(path: Path) -> dict[str, torch.Tensor]:
    """Read the moving average in a verified checkpoint file, under the names of `read_weights`.

    Returns:
        Transformers' name of a weight -> its average.

    Raises:
        ValueError: There is none; see also `load_tensors`.
    """
    average = load_tensors(path)["state"].get("callbacks", {}).get("WeightAverage")
    if average is None:
        raise ValueError(
            f"{path}: holds no moving average; a run keeps one if training.ema_half_life_tokens is above 0"
        )
    weights = copy.deepcopy(average["weights"])
    return {**weights, TIED_WEIGHT: weights[EMBEDDING]}


def save_weights(folder: str | Path, state_dict: dict[str, torch.Tensor], info: CheckpointInfo) -> Path:
    """Write weights (Transformers' names) as a checkpoint without optimizer state, for `init.from`."""
    content = {"state": {"model": {_MODEL_PREFIX + name: value for name, value in state_dict.items()}}}
    path = checkpoint_path(folder, info.step)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Opened here: of a file that torch opens itself, it does not say why it cannot be written.
    with writing(path), unfinished_path(path).open("wb") as file:
        torch.save(content, file)
    finish_checkpoint(path, dataclasses.replace(info, weights_only=True))
    return path


def run_folder_of(checkpoint: Path) -> Path:
    """Return the run folder of a checkpoint, which holds its tokenizer and recipe."""
    return checkpoint.parent.parent
