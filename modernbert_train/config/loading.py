"""Load a recipe from YAML and the command line, and write one as YAML.

    defaults of the dataclasses  <  included files  <  the file itself  <  overrides `a.b.c=value`

`overrides.py` reads and merges these, key by key; here interpolations (`${oc.env:DATA}/web`) are resolved, fields that
follow from others are filled in (`filling.py`), and values are checked. OmegaConf resolves and checks types, and
appears in no result.

`null` removes an entry from a dictionary (a phase, a source, a source of a mixture). For an inherited field of a phase
it means "as in the phase before".
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_origin

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from modernbert_train.common.redaction import redact, secret_problem
from modernbert_train.common.text import did_you_mean, list_problems, shorten, without_breaks
from modernbert_train.config.fields import (
    child_type,
    entry_type,
    expected_text,
    is_optional,
    is_scalar,
    is_section,
    may_be_auto,
    python_name,
    quantity_parser,
    required_fields,
    section_fields,
    strip_optional,
    yaml_name,
)
from modernbert_train.config.filling import ReadModel, fill_in_model, fill_in_sizes
from modernbert_train.config.mixture import as_written
from modernbert_train.config.overrides import (
    COMMAND_LINE,
    ConfigSource,
    find_origin,
    merge_sources,
    read_sources,
)
from modernbert_train.config.schema import (
    AUTO,
    INHERITED_FIELDS,
    Device,
    MixtureConfig,
    ModelConfig,
    PhaseConfig,
    Recipe,
)
from modernbert_train.config.validation import validate

KeyPath = tuple[str, ...]  # the keys that lead to a value
Problem = tuple[KeyPath, str]  # YAML keys of the value, and what is wrong with it


def load_recipe(
    path: str | Path,
    overrides: list[str] | None = None,
    origin: str = COMMAND_LINE,
    read_model: ReadModel | None = None,
) -> Recipe:
    """Load the recipe in a YAML file.

    Args:
        path: the YAML file.
        overrides: `key=value` or `include=FILE`, applied in order.
        origin: where the overrides are written, for error messages.
        read_model: reads the architecture of `init.from`, for the fields of the model that the recipe leaves out
            (`checkpoints.recipes` has it); None: these keep their defaults.

    Returns:
        The complete recipe: quantities as ints, inherited and automatic fields filled in, shares of a mixture adding
        up to 1. If the recipe sets `phase`, it contains only that phase.

    Raises:
        ValueError: naming origin, field, value and remedy. Mistakes of one kind are reported together: unreadable
            files first, then unknown keys, then secrets, then values of the wrong type, then a tokenizer or weights
            that a value follows from and that cannot be read, then values that do not fit together.
    """
    path = Path(path)
    sources = read_sources(path, overrides or [], origin)
    values, filled = fill_dataclass(sources, Recipe, path, fill_in_sizes)
    recipe = fill_in_model(_finished(filled), values, read_model)
    found = [*validate(recipe), *check_chosen_phase(recipe)]
    if found:
        raise ValueError(list_problems(str(path), list(map(without_breaks, found))))
    return keep_chosen_phase(recipe)


def fill_dataclass(
    sources: list[ConfigSource],
    root: type,
    path: Path,
    fill_in: Callable[[dict[str, Any]], dict[str, Any]] = lambda values: values,
) -> tuple[dict[str, Any], Any]:
    """Fill a dataclass with merged sources whose keys it has.

    Args:
        sources: in ascending priority.
        root: the dataclass.
        path: the YAML file, for error messages.
        fill_in: adds values that follow from others.

    Returns:
        The values that are set or filled in, under Python's names, and the dataclass.

    Raises:
        ValueError: An interpolation fails, a value has a secret or is of the wrong type, or a field is missing.
    """
    values = _resolve_interpolations(merge_sources(sources), path, root)
    problems = list(_secrets(values, ()))  # before anything is read from a URL
    if problems:
        raise ValueError(list_problems(str(path), [_located(sources, *problem) for problem in problems]))
    values = fill_in(_clean(values, root, (), problems, root))
    unparsed = {place for place, _ in problems}
    problems += [problem for problem in _missing(values, root, (), root) if problem[0] not in unparsed]
    structured = _to_structured(values, problems, root)
    if problems:
        found = [_located(sources, place, text) for place, text in _without_inherited(problems)]
        raise ValueError(list_problems(str(path), list(map(without_breaks, found))))
    return values, OmegaConf.to_object(structured)


def dump_recipe(recipe: Recipe) -> str:
    """Return a recipe as YAML, which loads as an equal recipe."""
    return yaml.safe_dump(_plain(recipe), sort_keys=False, allow_unicode=True, width=100)


def _plain(value: Any) -> Any:
    if isinstance(value, MixtureConfig):
        return as_written(value)
    if dataclasses.is_dataclass(value):
        return {yaml_name(f.name): _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _resolve_interpolations(values: dict[str, Any], path: Path, root: type) -> dict[str, Any]:
    """Return the values with `${...}` replaced; it may name a field that is left out and has a default of its own."""
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(_with_defaults(values, root)), resolve=True)
    except OmegaConfBaseException as error:
        place = without_breaks(getattr(error, "full_key", None) or "a value")
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{path}: {place} has an interpolation that fails: {reason}; name a field that is set, by all its keys, "
            "such as ${model.hidden_size}, or ${oc.env:NAME} for a variable of the environment"
        ) from None
    return _written(resolved, values)


def _with_defaults(values: Any, section: Any) -> Any:
    """Return the values of a section and the defaults of its other fields, except those that follow from others."""
    section = strip_optional(section)
    if not is_section(section) or not isinstance(values, dict):
        return values
    if entry_type(section) is not None:
        return {key: _with_defaults(value, entry_type(section)) for key, value in values.items()}
    filled = dict(values)
    for field in dataclasses.fields(section):
        key, expected = yaml_name(field.name), section_fields(section)[yaml_name(field.name)]
        if key in values or (is_section(expected) and not is_optional(expected)):
            filled[key] = _with_defaults(values.get(key, {}), expected)
        elif not (
            may_be_auto(section, key) or _is_inherited(section, key) or field.default is dataclasses.MISSING
        ):
            filled[key] = list(field.default) if isinstance(field.default, tuple) else field.default
    return filled


def _secrets(values: Any, path: KeyPath) -> Iterator[Problem]:
    """Yield a problem for each value that has a secret: a recipe is copied to the run folder, W&B and model cards."""
    if isinstance(values, dict | list):
        entries = values.items() if isinstance(values, dict) else enumerate(values)
        for key, value in entries:
            yield from _secrets(value, (*path, str(key)))
    elif isinstance(values, str) and (problem := secret_problem(values)):
        yield path, f"is {redact(values)}, {problem}"


def _written(resolved: Any, values: Any) -> Any:
    """Return what `values` has of the resolved values."""
    if not isinstance(values, dict):
        return resolved
    return {key: _written(resolved[key], value) for key, value in values.items()}


def _clean(
    values: dict[str, Any], section: Any, path: KeyPath, problems: list[Problem], root: type
) -> dict[str, Any]:
    """Return the values of a section under Python's names, quantities parsed, without those that null removes.

    A value that cannot be parsed is left out and added to `problems`.
    """
    has_named_entries = entry_type(section) is not None
    cleaned = {}
    for key, value in values.items():
        if value is None and _null_removes(section, key):
            continue
        expected = strip_optional(child_type(section, key))
        if isinstance(value, dict) and is_section(expected):
            value = _clean(value, expected, (*path, key), problems, root)
        elif value == AUTO and may_be_auto(section, key):
            if section is ModelConfig:
                continue  # as if it were left out
        elif value is not None:
            parser = None if has_named_entries else quantity_parser(key)
            try:
                value = _parse(value, expected, expected_text((*path, key), root), parser)
            except ValueError as error:
                problems.append(((*path, key), f"is {_yaml_text(value)}, {error}"))
                continue
        cleaned[key if has_named_entries else python_name(key)] = value
    return cleaned


def _yaml_text(value: Any) -> str:
    shown = shorten(value)
    return {"None": "null", "True": "true", "False": "false"}.get(shown, shown)


def _null_removes(section: Any, key: str) -> bool:
    return _is_inherited(section, key) or section is MixtureConfig or entry_type(section) is not None


def _is_inherited(section: Any, key: str) -> bool:
    return section is PhaseConfig and key in INHERITED_FIELDS


def _parse(value: Any, expected: Any, in_words: str, parser: Callable[[object], int] | None) -> Any:
    """Parse a quantity, and reject values that OmegaConf's type check would let pass."""
    if expected is Device and value == "cuda":
        return "gpu"
    if value == MISSING or (isinstance(value, list) and MISSING in value):
        raise ValueError(f"a placeholder to be filled in, expected {in_words}")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if (expected is bool and is_number) or (is_scalar(expected) and isinstance(value, dict | list)):
        raise ValueError(f"expected {in_words}")
    if get_origin(expected) in (list, tuple) and not _is_flat_list(value):
        raise ValueError(f"expected {in_words}")
    return value if parser is None else parser(value)


def _is_flat_list(value: Any) -> bool:
    return isinstance(value, list) and not any(
        item is None or isinstance(item, dict | list) for item in value
    )


def _missing(values: Any, expected: Any, path: KeyPath, root: type) -> Iterator[Problem]:
    """Yield a problem for every field without a default that is not set."""
    expected = strip_optional(expected)
    if not is_section(expected) or not isinstance(values, dict):
        return
    if entry_type(expected) is None:
        for key in required_fields(expected):
            if values.get(key) is None:
                yield (*path, key), f"is missing, expected {expected_text((*path, key), root)}"
    for key, value in values.items():
        yield from _missing(value, child_type(expected, yaml_name(key)), (*path, key), root)


def _to_structured(values: dict[str, Any], problems: list[Problem], root: type) -> Any:
    """Merge the values into the dataclass, and add a problem for each value of the wrong type."""
    try:
        return OmegaConf.merge(OmegaConf.structured(root), values)
    except OmegaConfBaseException:
        pass  # OmegaConf stops at the first error: check value by value to report all of them
    known = {place for place, _ in problems}
    for path, value in _leaves(values, root, ()):
        yaml_path = tuple(yaml_name(key) for key in path)
        section, inside = _section_around(path, root)
        nested: Any = value
        for key in reversed(inside):
            nested = {key: nested}
        try:
            OmegaConf.merge(OmegaConf.structured(section), nested)
        except OmegaConfBaseException:
            if yaml_path not in known:
                problems.append(
                    (yaml_path, f"is {_yaml_text(value)}, expected {expected_text(yaml_path, root)}")
                )
    assert problems
    return None


def _section_around(path: KeyPath, root: type) -> tuple[type, KeyPath]:
    """Return the innermost dataclass around a value, and the rest of its path. Checking a value in it takes no time."""
    section: Any = root
    expected, inside = section, path
    for number, key in enumerate(path[:-1], start=1):
        expected = strip_optional(child_type(expected, yaml_name(key)))
        if dataclasses.is_dataclass(expected):
            section, inside = expected, path[number:]
    return section, inside


def _leaves(values: Any, expected: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    """Yield every value that is not a section, with its path in Python's names."""
    expected = strip_optional(expected)
    if not is_section(expected) or not isinstance(values, dict):
        yield path, values
        return
    for key, value in values.items():
        yield from _leaves(value, child_type(expected, yaml_name(key)), (*path, key))


def _without_inherited(problems: list[Problem]) -> Iterator[Problem]:
    """Drop problems of inherited values: only the first phase, or task of a suite, with the value is reported."""
    seen = set()
    for place, text in problems:
        key = (place[-1], text)
        inherited = (place[0] == "phases" and place[2:3] and place[2] in INHERITED_FIELDS) or place[
            0
        ] == "tasks"
        if not inherited or key not in seen:
            yield place, text
        if inherited:
            seen.add(key)


def _located(sources: list[ConfigSource], place: KeyPath, text: str) -> str:
    """Return a problem with the place where the value is written. `shares` is no key in YAML: it is left out."""
    shown = [key for index, key in enumerate(place) if (place[index - 1], key) != ("mixture", "shares")]
    return f"{find_origin(sources, place)}: {'.'.join(shown)} {text}"


def _finished(recipe: Recipe) -> Recipe:
    """Fill in `{name}`, and scale the shares of every mixture to add up to 1."""
    phases = {
        name: dataclasses.replace(
            phase, mixture=dataclasses.replace(phase.mixture, shares=_normalized(phase.mixture.shares))
        )
        for name, phase in recipe.phases.items()
    }
    return dataclasses.replace(recipe, phases=phases, run_folder=fill_in_run_folder(recipe))


def _normalized(shares: dict[str, float]) -> dict[str, float]:
    total = math.fsum(shares.values())
    # Shares that add up to 1 already keep every bit, so that a dumped recipe loads as an equal one.
    if not math.isfinite(total) or total <= 0 or abs(total - 1) < 1e-12:
        return shares
    return {source: share / total for source, share in shares.items()}


def fill_in_run_folder(recipe: Recipe) -> str:
    """Return the run folder with `{name}` filled in. One phase of several has a folder of its own, `...-PHASE`."""
    suffix = "" if recipe.phase is None or list(recipe.phases) == [recipe.phase] else f"-{recipe.phase}"
    if "{name}" in recipe.run_folder:
        return recipe.run_folder.replace("{name}", recipe.name + suffix)
    return recipe.run_folder.rstrip("/") + suffix if suffix else recipe.run_folder


def check_chosen_phase(recipe: Recipe) -> Iterator[str]:
    """Yield the reason why the one phase that a recipe chooses cannot be trained by itself."""
    names = list(recipe.phases)
    if recipe.phase is None or not names:
        return
    if recipe.phase not in names:
        hint = did_you_mean(recipe.phase, names) or f"; the phases are {', '.join(names)}"
        yield f"phase is {recipe.phase!r}, which is not in phases{hint}"
    elif recipe.phase != names[0] and recipe.init.from_ is None:
        before = names[names.index(recipe.phase) - 1]
        yield (
            f"phase is {recipe.phase}, which continues from the weights of phase {before}, but init.from is not set; "
            f"name a run folder or a checkpoint, such as init.from=runs/{recipe.name}"
        )


def keep_chosen_phase(recipe: Recipe) -> Recipe:
    """Return a valid recipe with only the phase it chooses, or unchanged if it chooses none.

    The phase must already have the values it inherits.
    """
    if recipe.phase is None:
        return recipe
    return dataclasses.replace(recipe, phases={recipe.phase: recipe.phases[recipe.phase]})
