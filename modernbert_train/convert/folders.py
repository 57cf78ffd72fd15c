"""Transformers' model of a folder."""

from pathlib import Path
from typing import Any

from modernbert_train.checkpoints.hf.transformers_model import load_masked_lm


def load_transformers_model(folder: Path) -> Any:
    """Load Transformers' masked-LM model from a folder that we wrote.

    Returns:
        The model, see `load_masked_lm`.

    Raises:
        ValueError: Weights are missing, unused or of another shape, which Transformers only warns about.
    """
    model, problems = load_masked_lm(folder)
    if any(problems.values()):
        raise ValueError(f"{folder}: its weights do not fit its config.json: {problems}")
    return model
