"""How two recipes, or the architectures of two models, differ: dotted key -> value on either side."""

from collections.abc import Mapping
from typing import Any

import yaml

from modernbert_train.config.architecture import ARCHITECTURE_FIELDS
from modernbert_train.config.loading import dump_recipe
from modernbert_train.config.schema import ModelConfig, Recipe


def recipe_settings(recipe: Recipe) -> dict[str, Any]:
    """Return every field of a recipe under its dotted key, with the values that its YAML has."""
    return flatten(yaml.safe_load(dump_recipe(recipe)))


def architecture_settings(model: ModelConfig) -> dict[str, Any]:
    """Return the fields that decide which weights a model has and what it computes with them."""
    # A table of learned positions has this length; otherwise it is only a limit.
    is_table = model.positions == "learned"
    fields = (*ARCHITECTURE_FIELDS, "max_position_embeddings") if is_table else ARCHITECTURE_FIELDS
    return {f"model.{field}": getattr(model, field) for field in fields}


def changed_settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return key -> (value before, value after) of the settings that differ; None stands for a missing one."""
    keys = dict.fromkeys([*before, *after])
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def evaluation_settings(recipe: Recipe) -> dict[str, Any]:
    """Return everything but the model that the held-out scores at the end of a run depend on."""
    last = list(recipe.phases.values())[-1]
    return {
        "evaluation.mask_rate": recipe.evaluation.mask_rate,
        "evaluation.max_rows": recipe.evaluation.max_rows,
        "masking": recipe.masking,
        "data.tokenizer": recipe.data.tokenizer,
        "data.sources": recipe.data.sources,
        "objective of the last phase": last.objective,
        "context_tokens of the last phase": last.context_tokens,
        "row_tokens of the last phase": last.row_tokens,
    }


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings into one with dotted keys."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat
