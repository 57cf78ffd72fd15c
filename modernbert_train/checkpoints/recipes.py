"""Recipes whose model is that of the weights they start from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from modernbert_train.config import ModelConfig, Recipe, load_recipe


def load_run_recipe(
    path: str | Path, overrides: list[str] | None = None, origin: str = "command line"
) -> Recipe:
    """Load a recipe to train, plan or check; fields of the model that it leaves out are those of `init.from`.

    Args:
        path: See `config.load_recipe`.
        overrides: See there.
        origin: See there.

    Returns:
        The complete recipe.
    """
    return load_recipe(path, overrides, origin, _read_model)


def _read_model(init_from: str) -> ModelConfig:
    # Only here, because a recipe that names no weights is read without torch.
    from modernbert_train.checkpoints.source import open_weights

    info = open_weights(init_from).info
    return replace(
        info.model, global_rope_theta=info.global_rope_theta, local_rope_theta=info.local_rope_theta
    )
