"""Read the YAML files of a recipe, with their includes, and the overrides of the command line, and merge them.

Each file and each override is a `ConfigSource`; later ones win, key by key. All keys are checked here against the
dataclasses of `schema.py`, so that a mistyped key is reported with the place where it is written.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from modernbert_train.common.text import did_you_mean, list_problems, one_line, shorten, without_breaks
from modernbert_train.config.fields import (
    child_type,
    entry_type,
    is_optional,
    is_section,
    section_fields,
    strip_optional,
    suggest_field,
)
from modernbert_train.config.mixture import check_switch, spell_out_mixtures
from modernbert_train.config.schema import INHERITED_FIELDS, Recipe
from modernbert_train.config.shipped import find_yaml

COMMAND_LINE = "command line"
MOST_LEVELS = 40  # of nested values; a recipe has seven


@dataclass(frozen=True)
class ConfigSource:
    """The values of one YAML file or one override."""

    # The file or "command line", for error messages.
    origin: str
    # Values, nested by key.
    values: dict[str, Any]
    # Number of keys in an override (3 for `a.b.c=1`); 0 for a file.
    depth: int = 0


def read_sources(path: Path, overrides: list[str], origin: str = COMMAND_LINE) -> list[ConfigSource]:
    """Read everything a recipe consists of.

    Args:
        path: the YAML file.
        overrides: `key=value`, or `include=FILE`, which puts a file on top of everything before it.
        origin: where the overrides are written, for error messages.

    Returns:
        Sources in ascending priority: included files in order, the file itself, overrides in order.

    Raises:
        ValueError: for unreadable files, include cycles, malformed overrides and unknown keys (all of them at once).
    """
    sources = read_file(path)
    for override in overrides:
        keys, value = parse_override(override, origin)
        if keys == ["include"]:
            sources += read_file(Path(str(value)))
        else:
            sources.append(ConfigSource(origin, nest(keys, value), depth=len(keys)))
    sources = [replace(source, values=spell_out_mixtures(source.values)) for source in sources]
    problems: list[str] = []
    for position, source in enumerate(sources):
        found = list(unknown_keys(source.values, Recipe, ()))
        if not found and not problems:
            found = list(_unknown_entries(source, merge_sources(sources[:position])))
        problems += [f"{source.origin}: {text}" for text in found]
    if problems:
        raise ValueError(list_problems(str(path), list(map(without_breaks, problems))))
    return [replace(source, values=_without_empty_sections(source.values, Recipe)) for source in sources]


RECIPE = "a recipe is a mapping of sections (name: ..., model: ...)"


def read_file(name: Path, including: tuple[Path, ...] = (), expected: str = RECIPE) -> list[ConfigSource]:
    """Read a YAML file and the files under its `include`.

    Args:
        name: path of the file, relative to the folder of the file that includes it, or of a recipe in the package.
        including: the chain of files that include it, outermost first.
        expected: what the file should contain, in words.

    Returns:
        The sources of its includes, then its own.

    Raises:
        ValueError: if a file cannot be read or includes itself.
    """
    folder = including[-1].parent if including else Path()
    by = f" (included by {os.path.normpath(including[-1])})" if including else ""
    path = find_yaml(name, folder, by)
    origin = os.path.normpath(path)  # as one would type it, without `x/../`
    if path.resolve() in [parent.resolve() for parent in including]:
        chain = " -> ".join(os.path.normpath(parent) for parent in (*including, path))
        raise ValueError(f"include cycle: {chain}; remove one of these includes")
    values = read_mapping(path, f"{origin}{by}", expected)
    include = values.pop("include", [])
    include = [include] if isinstance(include, str) else include
    if not isinstance(include, list) or not all(isinstance(name, str) for name in include):
        raise ValueError(
            f"{origin}: include is {shorten(include)}, expected the path of a YAML file or a list of such paths"
        )
    sources = []
    for included in include:
        sources += read_file(Path(included), (*including, path), expected)
    return [*sources, ConfigSource(origin, values)]


def read_mapping(path: Path, shown: str, expected: str) -> dict[str, Any]:
    """Read the mapping in a YAML file, without resolving interpolations.

    Args:
        path: the file.
        shown: its name in error messages.
        expected: what the file should contain, in words.

    Returns:
        The mapping.

    Raises:
        ValueError: if there is no such file, no mapping in it, or a key occurs twice.
    """
    try:
        values = _plain(lambda: OmegaConf.load(path))
    except ValueError as error:
        raise ValueError(f"{shown}: not readable as YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{shown}: {expected}, not a list or a value")
    return values  # keys that are not text are reported by unknown_keys


def _plain(read: Callable[[], Any]) -> Any:
    """Return what `read` reads of some YAML, without resolving interpolations.

    Raises:
        ValueError: It is no YAML, has a value that cannot be made, or is nested too deeply; in one line.
    """
    try:
        values = OmegaConf.to_container(read(), resolve=False)
    except RecursionError:
        values = None
        depth = MOST_LEVELS + 1
    except (
        Exception
    ) as error:  # PyYAML lets any error of what makes a value through, such as IndexError for `!!int`
        raise ValueError(one_line(error)) from None
    else:
        depth = _depth(values)
    if depth > MOST_LEVELS:
        raise ValueError(f"nested in more than {MOST_LEVELS} levels")
    return values


def _depth(values: Any) -> int:
    """Return the number of levels of nested mappings and lists, without recursion."""
    depth, level = 0, [values]
    while level := [value for value in level if isinstance(value, dict | list)]:
        depth += 1
        level = [item for value in level for item in (value.values() if isinstance(value, dict) else value)]
    return depth


def parse_override(text: str, origin: str = COMMAND_LINE) -> tuple[list[str], Any]:
    """Split `a.b.c=value` into its keys and its value, read as YAML.

    >>> parse_override("phases.pretrain.learning_rate=1e-3")
    (['phases', 'pretrain', 'learning_rate'], 0.001)

    Returns:
        The keys and the value.

    Raises:
        ValueError: if it is not of this form.
    """
    dotted, equals, value = text.partition("=")
    keys, shown = dotted.strip().split("."), shorten(text)
    if not equals or not all(keys) or len(keys) > MOST_LEVELS:
        raise ValueError(f"{origin}: {shown} is not an override; write key=value, such as optimizer.eps=1e-6")
    if not value.strip():
        raise ValueError(f"{origin}: {shown} has no value; write {without_breaks(dotted)}=null for none")
    try:
        parsed = _plain(lambda: OmegaConf.create(f"value: {value}"))
    except ValueError as error:
        raise ValueError(f"{origin}: the value of {shown} is not readable as YAML: {error}") from None
    if not isinstance(parsed, dict) or list(parsed) != ["value"]:
        raise ValueError(f"{origin}: the value of {shown} is not a single YAML value")
    return keys, parsed["value"]


def nest(keys: list[str], value: Any) -> dict[str, Any]:
    """Return the mapping that an override stands for: `["a", "b"], 1` -> `{"a": {"b": 1}}`."""
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def unknown_keys(
    values: Any, expected: Any, path: tuple[str, ...], root: type = Recipe, what: str = "a recipe"
) -> Iterator[str]:
    """Yield a problem for each key that does not exist, and for each section that is not a mapping.

    Args:
        values: of a section.
        expected: the type of the section.
        path: the keys that lead to it.
        root: the type of the whole file.
        what: the whole file, in words.

    Yields:
        The problem, without its file.
    """
    expected = strip_optional(expected)
    if not is_section(expected) or values is None or (isinstance(values, str) and "${" in values):
        return
    dotted = ".".join(path)
    if not isinstance(values, Mapping):
        yield f"{dotted} is {shorten(values)}, expected a section with keys of its own"
        return
    for key, value in values.items():
        full_key = f"{dotted}.{key}" if dotted else str(key)
        if not isinstance(key, str):
            yield f"{full_key}: the key {key!r} is not text; put it in quotes"
        elif entry_type(expected) is not None or key in section_fields(expected):
            yield from unknown_keys(value, child_type(expected, key), (*path, key), root, what)
        else:
            yield f"{full_key} is not a field of {what}{suggest_field(key, expected, root)}"


def _unknown_entries(source: ConfigSource, before: dict[str, Any]) -> Iterator[str]:
    """Yield a problem for each phase or data source that is removed or changed although it does not exist.

    Files may add entries. An override inside an entry (`phases.pretrian.tokens=1B`) may not: a typo would silently
    create a new entry. `before` is the merge of all earlier sources.
    """
    for path in (("phases",), ("data", "sources")):
        known = [name for name, entry in _mapping_at(before, path).items() if entry is not None]
        for name, entry in _mapping_at(source.values, path).items():
            entry_path = ".".join((*path, name))
            inside = source.depth > len(path) + 1
            if name in known or (entry is not None and not inside):
                continue
            hint = did_you_mean(name, known) or f"; existing: {', '.join(known) or 'none'}"
            yield f"there is no {entry_path}{hint} (to add it: {entry_path}={{...}} with all its fields)"
    for name, phase in _mapping_at(source.values, ("phases",)).items():
        if source.depth > len(("phases", name, "mixture")) and isinstance(phase, dict):
            earlier = _mapping_at(before, ("phases", name)).get("mixture")
            for problem in check_switch(earlier, phase.get("mixture")):
                yield f"phases.{name}.mixture: {problem}"


def _mapping_at(values: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """Return the mapping at `path`, an empty one if there is none."""
    for key in path:
        inner = values.get(key)
        values = inner if isinstance(inner, dict) else {}
    return values


def _without_empty_sections(values: dict[str, Any], section: type) -> dict[str, Any]:
    """Return the values without empty sections, such as `model:` with every line below it commented out.

    YAML reads an empty section as null, which would erase the values of included files.
    """
    kept = {}
    for key, value in values.items():
        expected = section_fields(section)[key]
        always_present = is_section(expected) and not is_optional(expected) and key not in INHERITED_FIELDS
        if always_present and value is None:
            continue
        nested = always_present and entry_type(expected) is None and isinstance(value, dict)
        kept[key] = _without_empty_sections(value, expected) if nested else value
    return kept


def merge_sources(sources: list[ConfigSource]) -> dict[str, Any]:
    """Merge sources key by key; later ones win. Lists are replaced as a whole."""
    merged: dict[str, Any] = {}
    for source in sources:
        merged = _merge(merged, source.values)
    return merged


def _merge(earlier: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    merged = dict(earlier)
    for key, value in later.items():
        below = merged.get(key)
        both = isinstance(below, dict) and isinstance(value, dict)
        merged[key] = _merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def find_origin(sources: list[ConfigSource], path: tuple[str, ...]) -> str:
    """Return where a field's value is written: the origin of the last source that has it.

    If no source has the field, it is the origin of the section around it, preferably a file.
    """
    files = [source for source in sources if source.depth == 0]
    for length in range(len(path), 0, -1):
        by_preference = sources if length == len(path) else [*sources[len(files) :], *files]
        for source in reversed(by_preference):
            if path[length - 1] in _mapping_at(source.values, path[: length - 1]):
                return source.origin
    return files[-1].origin
