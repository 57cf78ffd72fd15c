"""Transformers' own model of a Hugging Face folder: what ours is compared with, what is scored, exported and served."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from transformers import AutoModelForMaskedLM, PreTrainedModel
from transformers.utils import logging as hf_logging

from modernbert_train.checkpoints.hf.weight_files import read_json
from modernbert_train.common.text import one_line


def load_masked_lm(folder: Path) -> tuple[Any, dict[str, list[str]]]:
    """Load Transformers' masked-LM model from a folder; see `load_model`."""
    return load_model(folder, AutoModelForMaskedLM, attn_implementation="sdpa")


def load_model(folder: Path, kind: Any, **options: Any) -> tuple[Any, dict[str, list[str]]]:
    """Load a model of Transformers from a folder, in float32, on the CPU, in eval mode.

    Args:
        folder: A Hugging Face folder.
        kind: A class of Transformers, such as `AutoModel`.
        options: More arguments of its `from_pretrained`.

    Returns:
        The model, and the names of weights under `missing_keys`, which have new values, and `unexpected_keys`, which
        are not used.

    Raises:
        ValueError: Transformers cannot load it.
    """
    with quiet():
        try:
            model, info = kind.from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True, **options
            )
        except Exception as error:  # whatever may be wrong with files that others wrote
            raise ValueError(
                f"{folder}: Transformers {transformers.__version__} cannot load it: {one_line(error):.500}"
            ) from error
    return model.eval(), {kind: sorted(map(str, info[kind])) for kind in ("missing_keys", "unexpected_keys")}


def saved_class(folder: Path) -> type[PreTrainedModel]:
    """Return the class of Transformers whose model a folder holds.

    Raises:
        ValueError: config.json names none that Transformers has.
    """
    content = read_json(folder / "config.json")
    names = content.get("architectures") if isinstance(content, dict) else None
    name = names[0] if isinstance(names, list) and names else None
    found = getattr(transformers, name, None) if isinstance(name, str) else None
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel)):
        raise ValueError(
            f"{folder / 'config.json'}: architectures is {names!r:.100}, of which Transformers "
            f"{transformers.__version__} has no class; name a folder that it has saved"
        )
    return found


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
def quiet() -> Iterator[None]:
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
