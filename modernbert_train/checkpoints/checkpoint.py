"""Checkpoints on disk: written whole or not at all, verified before they are trusted.

A checkpoint is two files in `RUN/checkpoints`: `step-00000120.pt` (what Composer saves: weights, optimizer, position
in the data) and `step-00000120.json` (`CheckpointInfo`: size and SHA-256 of the former, and what a reader needs to
know). The `.pt` is written under a temporary name and renamed only after it is on the disk and the JSON file is
complete. A `.pt` without a matching JSON file was therefore damaged later, and a temporary file is an interrupted save,
which is ignored.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import os
from pathlib import Path

import torch

from modernbert_train.checkpoints.info import CheckpointInfo, info_file, read_info
from modernbert_train.checkpoints.run_files import CHECKPOINT_FOLDER, list_checkpoints
from modernbert_train.common.files import flush, sha256, write_atomically
from modernbert_train.config.architecture import EMBEDDING, TIED_WEIGHT

log = logging.getLogger(__name__)

_PREFIX_OF_MODEL = "model."  # Composer saves the module that wraps ours, in which ours is called `model`.
_UNFINISHED = ".saving-"  # before the name of a file being written; a save that was cut off leaves one


def checkpoint_path(run: str | Path, step: int) -> Path:
    """Where the checkpoint after `step` optimizer steps lies in the run folder."""
    return Path(run) / CHECKPOINT_FOLDER / f"step-{step:08d}.pt"


def unfinished_path(path: Path) -> Path:
    """Where a checkpoint is written before it gets its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
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
    """Check that a checkpoint's bytes are those that were written, and return its facts.

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
        raise ValueError(f"{path}: damaged: its SHA-256 is not the one that was written")
    return info


def find_latest(run: str | Path) -> Path | None:
    """The newest good checkpoint of a run; None for a run that has none yet.

    A damaged one is passed over with a loud line for the one before. ValueError if checkpoints are there and none of
    them can be used: a restart from nothing would throw the run away.
    """
    checkpoints = list_checkpoints(run)
    for path in reversed(checkpoints):
        try:
            verify(path)
        except ValueError as error:
            log.error("CHECKPOINT PASSED OVER: %s", error)
        else:
            return path
    if checkpoints:
        raise ValueError(
            f"{Path(run) / CHECKPOINT_FOLDER}: holds {len(checkpoints)} checkpoint(s) and none can be read "
            "(see the lines above); restore one from a copy, or start anew under another run_folder"
        )
    return None


def prune(run: str | Path, keep: int, newest_step: int) -> None:
    """Remove all but the newest `keep` checkpoints up to `newest_step`, and what saves that were cut off have left.

    Those marked `keep` (the ends of phases) stay, and so does what a run that was cut off has left beyond that step,
    since it was passed over for a reason.
    """
    for path in (Path(run) / CHECKPOINT_FOLDER).glob(f"{_UNFINISHED}*"):
        path.unlink()
    newest = checkpoint_path(run, newest_step)
    for path in [path for path in list_checkpoints(run) if path.name <= newest.name][:-keep]:
        try:
            stays = read_info(path).keep
        except ValueError as error:
            log.warning("left alone: %s", error)
            continue
        if not stays:
            path.unlink()
            info_file(path).unlink()


def resolve(source: str | Path) -> Path:
    """A checkpoint file from what a user may name: a run folder (its newest good one) or a `.pt` file."""
    path = Path(source)
    if path.suffix == ".pt":
        verify(path)
        return path
    if not path.is_dir():
        raise ValueError(f"{path}: no such run folder or checkpoint; name a run folder or a step-*.pt file")
    latest = find_latest(path)
    if latest is None:
        raise ValueError(f"{path}: no checkpoint in it; expected {path / CHECKPOINT_FOLDER}/step-*.pt")
    return latest


def load_weights(source: str | Path) -> tuple[dict[str, torch.Tensor], CheckpointInfo]:
    """The weights of a run folder or checkpoint under Transformers' names, on the CPU, and its facts."""
    path = resolve(source)
    return read_weights(path), read_info(path)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint file that has been verified, on the CPU; the optimizer's state is not read."""
    # Mapped, so that only what is asked for comes from the disk, and copied, so that it outlives the file.
    model = torch.load(path, map_location="cpu", weights_only=False, mmap=True)["state"]["model"]
    return {name.removeprefix(_PREFIX_OF_MODEL): value for name, value in copy.deepcopy(model).items()}


def read_average(path: Path) -> dict[str, torch.Tensor]:
    """The moving average in a checkpoint file that has been verified, under the names of `read_weights`."""
    state = torch.load(path, map_location="cpu", weights_only=False, mmap=True)["state"]
    average = state.get("callbacks", {}).get("WeightAverage")
    if average is None:
        raise ValueError(
            f"{path}: holds no moving average; a run keeps one where training.ema_half_life_tokens is above 0"
        )
    weights = copy.deepcopy(average["weights"])
    return {**weights, TIED_WEIGHT: weights[EMBEDDING]}


def save_weights(folder: str | Path, state_dict: dict[str, torch.Tensor], info: CheckpointInfo) -> Path:
    """Write weights (Transformers' names) as a checkpoint that `init.from` can name: without an optimizer's state."""
    content = {"state": {"model": {_PREFIX_OF_MODEL + name: value for name, value in state_dict.items()}}}
    path = checkpoint_path(folder, info.step)
    torch.save(content, unfinished_path(path))
    finish_checkpoint(path, dataclasses.replace(info, weights_only=True))
    return path


def run_folder_of(checkpoint: Path) -> Path:
    """The run folder a checkpoint lies in: that is where its tokenizer and recipe are."""
    return checkpoint.parent.parent
