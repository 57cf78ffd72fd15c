"""The device and the precision that a recipe's `auto` stands for on this machine."""

from __future__ import annotations

import torch

from modernbert_train.config import Recipe
from modernbert_train.config.schema import Precision


def resolve_device(recipe: Recipe) -> str:
    """Return Composer's name of the device, "gpu" or "cpu".

    Raises:
        ValueError: the recipe asks for a GPU and there is none.
    """
    if recipe.training.device == "gpu" and not torch.cuda.is_available():
        raise ValueError(
            "training.device is gpu, but torch finds no CUDA device; set it to auto or cpu, or check the driver"
        )
    if recipe.training.device == "auto":
        return "gpu" if torch.cuda.is_available() else "cpu"
    return recipe.training.device


def resolve_precision(recipe: Recipe, device: str) -> Precision:
    """Return the precision of the forward pass; "auto" is bf16 on a GPU, and fp32 on a CPU, where bf16 is slower."""
    if recipe.training.precision == "auto":
        return "bf16" if device == "gpu" else "fp32"
    return recipe.training.precision
