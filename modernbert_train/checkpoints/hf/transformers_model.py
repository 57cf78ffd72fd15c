"""Transformers' own model of a Hugging Face folder: what ours is compared with, and what `evaluate` scores."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from transformers import AutoModelForMaskedLM
from transformers.utils import logging as hf_logging

from modernbert_train.common.text import one_line


def load_masked_lm(folder: Path) -> tuple[Any, dict[str, list[str]]]:
    """Load Transformers' masked-LM model from a folder, in float32, on the CPU, in eval mode.

    Returns:
        The model, and the names of weights under `missing_keys`, which have new values, and `unexpected_keys`, which
        are not used.

    Raises:
        ValueError: Transformers cannot load it.
    """
    with _quiet():
        try:
            model, info = AutoModelForMaskedLM.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="sdpa", output_loading_info=True
            )
        except Exception as error:  # whatever may be wrong with files that others wrote
            raise ValueError(
                f"{folder}: Transformers {transformers.__version__} cannot load it: {one_line(error):.500}"
            ) from error
    return model.eval(), {kind: sorted(map(str, info[kind])) for kind in ("missing_keys", "unexpected_keys")}


class HiddenStates:
    """The encoder of a masked-LM model, which returns its last hidden states where the model returns logits.

    Args:
        model: A masked-LM model of Transformers.
    """

    def __init__(self, model: Any) -> None:
        self.encoder = model.base_model
        self.config = model.config

    def __call__(self, **inputs: torch.Tensor) -> Any:
        """Return an output whose `logits` are hidden states [documents, longest, hidden]."""
        return SimpleNamespace(logits=self.encoder(**inputs).last_hidden_state)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Switch off Transformers' progress bar and its report about missing and unused weights, which callers look at."""
    verbosity, shown = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if shown:
            hf_logging.enable_progress_bar()
