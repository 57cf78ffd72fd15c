"""Folders that appear whole or not at all, and the two models that must agree about one."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM
from transformers.utils import logging as hf_logging

from modernbert_train.config import ModelConfig
from modernbert_train.model import ModernBertForMaskedLM


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write into, which is renamed to `out` at the end; after an error nothing of it is left.

    ValueError: `out` is a file, or a folder with something in it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not empty; name a new folder, or remove it first")
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place and not in /tmp: a rename works within one file system only.
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        folder = Path(temporary) / out.name
        folder.mkdir()
        yield folder
        folder.rename(out)


def build_our_model(
    model: ModelConfig, state_dict: dict[str, Tensor], global_theta: float, local_theta: float
) -> ModernBertForMaskedLM:
    """Our encoder with these weights, on the CPU, in eval mode."""
    ours = ModernBertForMaskedLM(model, attention_backend="torch")
    ours.load_state_dict(state_dict)
    ours.set_rope_theta(global_theta, local_theta)
    return ours.eval()


def load_their_model(folder: Path) -> Any:
    """Transformers' masked-LM model of a folder, in float32, on the CPU, in eval mode.

    ValueError: weights missing, left over or of another shape, which Transformers itself only warns about.
    """
    with _quiet_transformers():
        model, info = AutoModelForMaskedLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa", output_loading_info=True
        )
    problems = {
        kind: sorted(map(str, info[kind])) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
    }
    if any(problems.values()):
        raise ValueError(f"{folder}: its weights do not fit its config.json: {problems}")
    return model.eval()


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bar for files that are read in a moment."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()
