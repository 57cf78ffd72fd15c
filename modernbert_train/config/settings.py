"""Settings under dotted keys: those of a recipe, and how two sets of them differ."""

from collections.abc import Mapping
from typing import Any

import yaml

from modernbert_train.config.loading import dump_recipe
from modernbert_train.config.schema import Recipe


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """Dotted key -> value of every field, as its YAML has it."""
    return flatten(yaml.safe_load(dump_recipe(recipe)))


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, under dotted keys."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Key -> values of the settings in which two sets differ; None for one that is missing."""
    keys = dict.fromkeys([*then, *now])
    return {key: (then.get(key), now.get(key)) for key in keys if then.get(key) != now.get(key)}
