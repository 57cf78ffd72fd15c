"""From YAML and command line to a `Recipe`, and back.

    defaults of the classes  <  included YAML files  <  the YAML file  <  `a.b.c=value` of the command line

OmegaConf does the merging, the interpolation (`${oc.env:DATA}/web`) and the type checks; nothing of it
reaches the outside. `null` takes an entry out of a dictionary (a phase, a source, a source of a mixture); for
a phase's inherited field it means "as in the phase before".
"""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from modernbert_train.common.text import did_you_mean, list_problems, one_line
from modernbert_train.config.fields import (
    entry_type,
    expected_text,
    is_section,
    quantity_parser,
    required_fields,
    section_fields,
    strip_optional,
    yaml_name,
)
from modernbert_train.config.mixture import written
from modernbert_train.config.overrides import COMMAND_LINE, Layer, find_origin, merge, read_layers
from modernbert_train.config.schema import INHERITED_FIELDS, MixtureConfig, PhaseConfig, Recipe
from modernbert_train.config.validation import validate

Place = tuple[str, ...]  # the keys that lead to a value
Problem = tuple[Place, str]


def load_recipe(path: str | Path, overrides: list[str] | None = None, origin: str = COMMAND_LINE) -> Recipe:
    """Returns the recipe in the YAML file `path`, complete: includes and overrides applied, quantities
    as ints, inherited fields of every phase filled in, shares of a mixture adding up to 1, and of the phases
    only the one that `phase` names, if it names one. `origin`: where the overrides are written.

    Raises ValueError naming place, field, value and remedy; mistakes of a kind are listed together:
    unreadable files first, then unknown keys, then values of the wrong type, then whatever does not fit
    together (`validate`).
    """
    path = Path(path)
    layers = read_layers(path, overrides or [], origin)
    values = _resolve_interpolations(layers, path)
    problems: list[Problem] = []
    values = _clean(values, Recipe, (), problems)
    if isinstance(values.get("phases"), dict):
        values["phases"] = _inherit(values["phases"])
    unreadable = {place for place, _ in problems}
    problems += [problem for problem in _missing(values, Recipe, ()) if problem[0] not in unreadable]
    structured = _to_structured(values, problems)
    if problems:
        found = [_located(layers, place, text) for place, text in _without_inherited(problems)]
        raise ValueError(list_problems(str(path), found))
    recipe = _finished(OmegaConf.to_object(structured))  # type: ignore[arg-type]
    found = [*validate(recipe), *check_choice(recipe)]
    if found:
        raise ValueError(list_problems(str(path), found))
    return choose_phase(recipe)


def dump_recipe(recipe: Recipe) -> str:
    """Returns the YAML text of a recipe; loading it gives an equal recipe."""
    return yaml.safe_dump(_plain(recipe), sort_keys=False, allow_unicode=True, width=100)


def _plain(value: Any) -> Any:
    if isinstance(value, MixtureConfig):
        return written(value)
    if dataclasses.is_dataclass(value):
        return {yaml_name(f.name): _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _resolve_interpolations(layers: list[Layer], path: Path) -> dict[str, Any]:
    merged = OmegaConf.create(merge(layers))
    try:
        return OmegaConf.to_container(merged, resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        place = getattr(error, "full_key", None) or "a value"
        raise ValueError(f"{path}: {place} refers to what is not there: {one_line(error)}") from None


def _clean(values: dict[str, Any], expected: Any, place: Place, problems: list[Problem]) -> dict[str, Any]:
    """Returns `values` in the shape of the classes: quantities parsed, `from` -> `from_`, entries set
    to null left out, and the inherited fields of phases and the fields of mixtures set to null too.
    """
    cleaned = {}
    entries = entry_type(expected)
    for key, value in values.items():
        hint = entries or section_fields(expected)[key]
        inherited = expected is PhaseConfig and key in INHERITED_FIELDS
        if value is None and (entries is not None or inherited or expected is MixtureConfig):
            continue
        if value == MISSING:  # `???`: OmegaConf's word for "to be filled in"
            problems.append(((*place, key), f"is to be filled in, expected {expected_text((*place, key))}"))
            continue
        inner = strip_optional(hint)
        if inner is bool and isinstance(value, int | float) and not isinstance(value, bool):
            # OmegaConf takes any number but 0 for true.
            problems.append(((*place, key), f"is {value!r}, expected {expected_text((*place, key))}"))
            continue
        if isinstance(value, dict) and is_section(inner):
            value = _clean(value, inner, (*place, key), problems)
        elif entries is None and (parse := quantity_parser(key)) and value is not None:
            try:
                value = parse(value)
            except ValueError as error:
                problems.append(((*place, key), f"is {value!r}, {error}"))
                continue
        cleaned[key if entries is not None else _python_name(key, expected)] = value
    return cleaned


def _python_name(key: str, section: type) -> str:
    return next(field.name for field in dataclasses.fields(section) if yaml_name(field.name) == key)


def _inherit(phases: dict[str, Any]) -> dict[str, Any]:
    """Fills the inherited fields of every phase from the phase before. In the first one, what a rank computes
    at once is a row unless the recipe says otherwise; the other fields have their defaults in `PhaseConfig`.
    """
    filled: dict[str, Any] = {}
    before: dict[str, Any] = {}
    for name, phase in phases.items():
        if not isinstance(phase, dict):  # reported as a value of the wrong type
            filled[name] = phase
            continue
        phase = {key: before[key] for key in INHERITED_FIELDS if key in before} | phase
        phase.setdefault("row_tokens", PhaseConfig.row_tokens)
        phase.setdefault("micro_batch_tokens", phase["row_tokens"])
        filled[name] = before = phase
    return filled


def _missing(values: Any, expected: Any, place: Place) -> Iterator[Problem]:
    """Yields a problem for every field without a default that has no value."""
    expected = strip_optional(expected)
    if not is_section(expected) or not isinstance(values, dict):
        return
    entries = entry_type(expected)
    for key in required_fields(expected) if entries is None else ():
        if values.get(key) is None:
            yield (*place, key), f"is missing, expected {expected_text((*place, key))}"
    for key, value in values.items():
        yield from _missing(value, entries or section_fields(expected)[yaml_name(key)], (*place, key))


def _to_structured(values: dict[str, Any], problems: list[Problem]) -> Any:
    """Merges the values into the classes and so checks their types; adds a problem for each value of a wrong
    type.
    """
    empty = OmegaConf.structured(Recipe)
    try:
        return OmegaConf.merge(empty, values)
    except OmegaConfBaseException:
        pass  # OmegaConf stops at the first one: look for all of them, value by value
    known = {place for place, _ in problems}
    for place, value in _leaves(values, Recipe, ()):
        nested: Any = value
        for key in reversed(place):
            nested = {key: nested}
        yaml_place = tuple(yaml_name(key) for key in place)
        try:
            OmegaConf.merge(empty, nested)
        except OmegaConfBaseException:
            if yaml_place not in known:
                problems.append((yaml_place, f"is {value!r}, expected {expected_text(yaml_place)}"))
    assert problems
    return None


def _leaves(values: Any, expected: Any, place: Place) -> Iterator[tuple[Place, Any]]:
    """Yields every value that is not a section, with its place (in Python names)."""
    expected = strip_optional(expected)
    if not is_section(expected) or not isinstance(values, dict):
        yield place, values
        return
    for key, value in values.items():
        yield from _leaves(
            value, entry_type(expected) or section_fields(expected)[yaml_name(key)], (*place, key)
        )


def _without_inherited(problems: list[Problem]) -> Iterator[Problem]:
    """Leaves out what a phase has only inherited: the phase that has it first is the one to mend."""
    seen = set()
    for place, text in problems:
        key = (place[-1], text)
        inherited = place[0] == "phases" and place[2:3] and place[2] in INHERITED_FIELDS
        if not inherited or key not in seen:
            yield place, text
        if inherited:
            seen.add(key)


def _located(layers: list[Layer], place: Place, text: str) -> str:
    shown = [key for at, key in enumerate(place) if (key, place[at - 1]) != ("shares", "mixture")]
    return f"{find_origin(layers, place)}: {'.'.join(shown)} {text}"


def _finished(recipe: Recipe) -> Recipe:
    """Fills in `{name}` and scales mixtures so that their shares add up to 1."""
    phases = {
        name: dataclasses.replace(
            phase, mixture=dataclasses.replace(phase.mixture, shares=_normalized(phase.mixture.shares))
        )
        for name, phase in recipe.phases.items()
    }
    return dataclasses.replace(recipe, phases=phases, run_folder=fill_in_run_folder(recipe))


def _normalized(mixture: dict[str, float]) -> dict[str, float]:
    total = math.fsum(mixture.values())
    # What adds up to 1 already stays as it is, to the last bit: a dumped recipe loads as an equal one.
    if not math.isfinite(total) or total <= 0 or abs(total - 1) < 1e-12:
        return mixture
    return {source: share / total for source, share in mixture.items()}


def check_choice(recipe: Recipe) -> Iterator[str]:
    """Yields why the phase that a whole recipe asks for cannot be run alone."""
    names = list(recipe.phases)
    if recipe.phase is None or not names:
        return
    if recipe.phase not in names:
        near = did_you_mean(recipe.phase, names) or f"; there is {', '.join(names)}"
        yield f"phase is {recipe.phase!r}, which is not in phases{near}"
    elif recipe.phase != names[0] and recipe.init.from_ is None:
        before = names[names.index(recipe.phase) - 1]
        yield (
            f"phase is {recipe.phase}, which goes on from the weights that the phase {before} has left, and init.from "
            f"is not set; name a run folder or a checkpoint, such as init.from=runs/{recipe.name}"
        )


def fill_in_run_folder(recipe: Recipe) -> str:
    """Returns the run folder with `{name}` filled in. A phase of several that is run alone has one of its own."""
    ending = "" if recipe.phase is None or list(recipe.phases) == [recipe.phase] else f"-{recipe.phase}"
    if "{name}" in recipe.run_folder:
        return recipe.run_folder.replace("{name}", recipe.name + ending)
    return recipe.run_folder.rstrip("/") + ending if ending else recipe.run_folder


def choose_phase(recipe: Recipe) -> Recipe:
    """Returns the recipe of the one phase that a sound recipe asks for; itself if it asks for none.

    What that phase inherits from those before must have been filled in.
    """
    if recipe.phase is None:
        return recipe
    return dataclasses.replace(recipe, phases={recipe.phase: recipe.phases[recipe.phase]})
