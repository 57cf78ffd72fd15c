"""Output folders that appear completely or not at all, and Transformers' model of a folder."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForMaskedLM
from transformers.utils import logging as hf_logging


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `out` at the end, or deleted after an error.

    Raises:
        ValueError: `out` is a file, or a folder that is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not empty; name a new folder, or remove it first")
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside `out` and not in /tmp: a rename works only within one file system.
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        folder = Path(temporary) / out.name
        folder.mkdir()
        yield folder
        folder.rename(out)


def load_transformers_model(folder: Path) -> Any:
    """Load Transformers' masked-LM model from a folder, in float32, on the CPU, in eval mode.

    Returns:
        The model.

    Raises:
        ValueError: Weights are missing, unused or of another shape, which Transformers only warns about.
    """
    with _no_progress_bar():
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
def _no_progress_bar() -> Iterator[None]:
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()
