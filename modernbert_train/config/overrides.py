"""Where a recipe's values are written down: YAML files with their includes, and overrides from the command
line.

A layer is one such place with its values; later layers win, key by key. All keys are checked here, against
the classes of `schema.py`, so that a mistyped one is reported with the place it was written in.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from modernbert_train.common.text import did_you_mean, list_problems, one_line
from modernbert_train.config.fields import (
    entry_type,
    is_optional,
    is_section,
    section_fields,
    strip_optional,
    suggest_field,
)
from modernbert_train.config.mixture import spell_out, switched_by_an_override
from modernbert_train.config.schema import INHERITED_FIELDS, Recipe
from modernbert_train.config.shipped import find_yaml

COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Layer:
    """Values of one place, nested by key; `origin` names the place in messages. `depth` is how many keys an
    override named (`a.b.c=1`: 3) and 0 for a file.
    """

    origin: str
    values: dict[str, Any]
    depth: int = 0


def read_layers(path: Path, overrides: list[str], origin: str = COMMAND_LINE) -> list[Layer]:
    """Returns the layers of a recipe, weakest first: included files in order, the file itself, overrides one
    by one. The override `include=FILE` puts a file on top of what stands before it. `origin` names the place
    where the overrides are written.

    Raises ValueError for unreadable files, include cycles, unknown keys (all of them at once) and broken
    overrides.
    """
    layers = read_file(path)
    for override in overrides:
        keys, value = parse_override(override, origin)
        if keys == ["include"]:
            layers += read_file(Path(str(value)))
        else:
            layers.append(Layer(origin, _nest(keys, value), depth=len(keys)))
    layers = [replace(layer, values=spell_out(layer.values)) for layer in layers]
    problems: list[str] = []
    for position, layer in enumerate(layers):
        found = list(unknown_keys(layer.values, Recipe, ()))
        if not found and not problems:
            found = list(_unknown_entries(layer, merge(layers[:position])))
        problems += [f"{layer.origin}: {text}" for text in found]
    if problems:
        raise ValueError(list_problems(str(path), problems))
    return [replace(layer, values=_without_empty_sections(layer.values, Recipe)) for layer in layers]


def read_file(name: Path, including: tuple[Path, ...] = ()) -> list[Layer]:
    """Return the layers of a YAML file: those of the files under its `include`, then its own."""
    folder = including[-1].parent if including else Path()
    by = f" (included by {os.path.normpath(including[-1])})" if including else ""
    path = find_yaml(name, folder, by)
    origin = os.path.normpath(path)  # as one would type it, without `x/../`
    if path.resolve() in [parent.resolve() for parent in including]:
        chain = " -> ".join(os.path.normpath(parent) for parent in (*including, path))
        raise ValueError(f"include cycle: {chain}; remove one of these includes")
    values = read_mapping(path, f"{origin}{by}", "a recipe is a mapping of sections (name: ..., model: ...)")
    include = values.pop("include", [])
    include = [include] if isinstance(include, str) else include
    if not isinstance(include, list) or not all(isinstance(name, str) for name in include):
        raise ValueError(
            f"{origin}: include is {include!r}, expected the path of a YAML file or a list of such paths"
        )
    layers = []
    for included in include:
        layers += read_file(Path(included), (*including, path))
    return [*layers, Layer(origin, values)]


def read_mapping(path: Path, shown: str, expected: str) -> dict[str, Any]:
    """Returns the mapping in a YAML file, with interpolations as they are written. ValueError where there is
    none, `expected` saying in words what should be there; a key that stands there twice is an error, too.
    """
    try:
        values = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{shown}: not readable as YAML: {one_line(error)}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{shown}: {expected}, not a list or a value")
    return values  # type: ignore[return-value]  # keys that are not text are reported by unknown_keys


def parse_override(text: str, origin: str = COMMAND_LINE) -> tuple[list[str], Any]:
    """Splits `a.b.c=value` into its keys and its value, read as YAML.

    >>> parse_override("phases.pretrain.learning_rate=1e-3")
    (['phases', 'pretrain', 'learning_rate'], 0.001)
    """
    dotted, equals, value = text.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ValueError(
            f"{origin}: {text!r} is not an override; write key=value, such as optimizer.eps=1e-6"
        )
    if not value.strip():
        raise ValueError(f"{origin}: {text!r} has no value; write {dotted}=null for none")
    try:
        parsed = OmegaConf.to_container(OmegaConf.create(f"value: {value}"), resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ValueError(
            f"{origin}: the value of {text!r} is not readable as YAML: {one_line(error)}"
        ) from None
    if not isinstance(parsed, dict) or list(parsed) != ["value"]:
        raise ValueError(f"{origin}: the value of {text!r} is not a single YAML value")
    return keys, parsed["value"]


def _nest(keys: list[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def unknown_keys(values: Any, expected: Any, path: tuple[str, ...]) -> Iterator[str]:
    """Yields a problem for each key in `values` that the recipe does not have, and for each section that is
    not one.
    """
    expected = strip_optional(expected)
    if not is_section(expected) or values is None or (isinstance(values, str) and "${" in values):
        return
    dotted = ".".join(path)
    if not isinstance(values, Mapping):
        yield f"{dotted} is {values!r}, expected a section with keys of its own"
        return
    entries = entry_type(expected)
    for key, value in values.items():
        full_key = f"{dotted}.{key}" if dotted else str(key)
        if not isinstance(key, str):
            yield f"{full_key}: the key {key!r} is not text; put it in quotes"
        elif entries is not None:
            yield from unknown_keys(value, entries, (*path, key))
        elif key in section_fields(expected):
            yield from unknown_keys(value, section_fields(expected)[key], (*path, key))
        else:
            yield f"{full_key} is not a field of a recipe{suggest_field(key, expected)}"


def _unknown_entries(layer: Layer, before: dict[str, Any]) -> Iterator[str]:
    """Yields a problem for a phase or source that is removed (set to null) though there is none of that name,
    and for an override inside one that is not there: it would quietly make a new entry out of a slip of the
    pen. `before`: all weaker layers, merged.
    """
    for path in (("phases",), ("data", "sources")):
        known = [name for name, entry in _at(before, path).items() if entry is not None]
        for name, entry in _at(layer.values, path).items():
            entry_path = ".".join((*path, name))
            inside = layer.depth > len(path) + 1
            if name in known or (entry is not None and not inside):
                continue
            near = did_you_mean(name, known) or f"; there is {', '.join(known) or 'none yet'}"
            yield f"there is no {entry_path}{near} (to add it: {entry_path}={{...}} with all its fields)"
    for name, phase in _at(layer.values, ("phases",)).items():
        if layer.depth > len(("phases", name, "mixture")) and isinstance(phase, dict):
            weaker = _at(before, ("phases", name)).get("mixture")
            for problem in switched_by_an_override(weaker, phase.get("mixture")):
                yield f"phases.{name}.mixture {problem}"


def _at(values: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """Returns the mapping at `path`, an empty one if there is none."""
    for key in path:
        inner = values.get(key)
        values = inner if isinstance(inner, dict) else {}
    return values


def _without_empty_sections(values: dict[str, Any], section: type) -> dict[str, Any]:
    """Drops sections that hold nothing (`model:` with every line under it commented out): they say nothing,
    and must not wipe out what an included file says.
    """
    kept = {}
    for key, value in values.items():
        expected = section_fields(section)[key]
        fixed = is_section(expected) and not is_optional(expected) and key not in INHERITED_FIELDS
        if fixed and value is None:
            continue
        nested = fixed and entry_type(expected) is None and isinstance(value, dict)
        kept[key] = _without_empty_sections(value, expected) if nested else value
    return kept


def merge(layers: list[Layer]) -> dict[str, Any]:
    """Merges layers key by key, the last one winning; lists are replaced whole."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merge_two(merged, layer.values)
    return merged


def _merge_two(weaker: dict[str, Any], stronger: dict[str, Any]) -> dict[str, Any]:
    merged = dict(weaker)
    for key, value in stronger.items():
        below = merged.get(key)
        both = isinstance(below, dict) and isinstance(value, dict)
        merged[key] = _merge_two(below, value) if both else value  # type: ignore[arg-type]
    return merged


def find_origin(layers: list[Layer], path: tuple[str, ...]) -> str:
    """Returns the place that a field's value comes from: the last layer that has it. For a field that nobody
    wrote, the one that has the section around it, a file rather than an override.
    """
    files = [layer for layer in layers if layer.depth == 0]
    for length in range(len(path), 0, -1):
        by_preference = layers if length == len(path) else [*layers[len(files) :], *files]
        for layer in reversed(by_preference):
            if path[length - 1] in _at(layer.values, path[: length - 1]):
                return layer.origin
    return files[-1].origin
