"""What a sweep file says: a base recipe, and the settings under which it is run, each with every seed.

    base: ../quickstart.yaml                     # relative to this file, as the file in an override include=FILE is
    overrides: [phases.pretrain.tokens=500K]     # of every cell
    grid:                                        # a cell for each combination
      model.local_attention: [64, 128]
      optimizer:                                 # a name that is no key: named lists of overrides
        adamw: [optimizer.name=adamw, optimizer.gradient_clip_norm=1.0]
        muon: [optimizer.name=muon]
    cells:                                       # and these beside the grid
      all-global: [model.global_attn_every_n_layers=1]
    seeds: [17, 18, 19]
    folder: sweeps/{name}                        # of the runs: {folder}/{cell}/seed-17; {name}: that of this file

A cell is nothing but overrides: `modernbert train BASE OVERRIDES` is its run, on which all else is built.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modernbert_train.common.text import did_you_mean, list_problems
from modernbert_train.config import Recipe, WandbConfig, dump_recipe, load_recipe
from modernbert_train.config.architecture import unread_fields
from modernbert_train.config.overrides import read_mapping
from modernbert_train.config.shipped import find_yaml
from modernbert_train.config.validation import RUN_NAME
from modernbert_train.objectives import MaskedLM

FIELDS = ("base", "overrides", "grid", "cells", "seeds", "folder")
_OWN_KEYS = {"name": "it follows from the cell", "run_folder": "set folder", "seed": "list it under seeds"}


@dataclass(frozen=True)
class Run:
    """A cell with one seed. `overrides` make its recipe of the base."""

    cell: str
    seed: int
    overrides: tuple[str, ...]
    recipe: Recipe

    @property
    def name(self) -> str:
        """For people, and a folder below that of the sweep."""
        return f"{self.cell}/seed-{self.seed}"


@dataclass(frozen=True)
class Cell:
    """A setting. In a picture it stands at `place`, on the line `line` (empty: on none)."""

    name: str
    line: str
    place: str
    runs: tuple[Run, ...]  # one of each seed


@dataclass(frozen=True)
class Sweep:
    """All there is to run."""

    name: str
    base: Path
    folder: Path
    axis: str  # what the places of the cells are values of; empty without a grid
    cells: tuple[Cell, ...]

    @property
    def runs(self) -> list[Run]:
        """Of all cells, cell by cell."""
        return [run for cell in self.cells for run in cell.runs]


@dataclass(frozen=True)
class _Point:
    name: str
    line: str
    place: str
    overrides: tuple[str, ...]


def read_sweep(path: str | Path, overrides: list[str] | None = None, folder: str | None = None) -> Sweep:
    """The sweep in a YAML file, every recipe of it loaded. `overrides` are of every cell and win; `folder` too.

    ValueError names what is wrong, cell and key: unknown fields, broken recipes, two cells that are the same.
    """
    path = find_yaml(path)
    shown = os.path.normpath(path)
    values = read_mapping(path, shown, "a sweep is a mapping (base: ..., grid: ..., seeds: ...)")
    problems = list(_field_problems(values))
    if problems:
        raise ValueError(list_problems(shown, [f"{shown}: {problem}" for problem in problems]))
    points = [*_grid_points(values.get("grid") or {}), *_cell_points(values.get("cells") or {})]
    common = tuple(values.get("overrides") or [])
    problems = [*_name_problems(points), *_key_problems(points, (*common, *(overrides or [])))]
    if problems:
        raise ValueError(list_problems(shown, [f"{shown}: {problem}" for problem in problems]))
    name = path.stem
    target = Path((folder or values.get("folder") or "sweeps/{name}").replace("{name}", name))
    base = Path(os.path.normpath(find_yaml(values["base"], path.parent, f" (base of {shown})")))
    seeds = values.get("seeds") or [load_recipe(base).seed]
    told: dict[str, list[str]] = {}
    cells = []
    for point in points:
        try:
            written = [_from_here(override, path.parent) for override in (*common, *point.overrides)]
            runs = [
                _run(base, point.name, seed, [*written, *(overrides or [])], name, target, shown)
                for seed in seeds
            ]
        except ValueError as error:
            told.setdefault(str(error).replace(f"{shown}: ", ""), []).append(point.name)
            continue
        cells.append(Cell(point.name, point.line, point.place, tuple(runs)))
    found = [f"{_whose(names, len(points))}: {text}" for text, names in told.items()] or list(_alike(cells))
    if found:
        raise ValueError(list_problems(shown, [f"{shown}: {problem}" for problem in found]))
    axis = list(values.get("grid") or {""})[-1]
    return Sweep(name, base, target, axis, tuple(cells))


def _field_problems(values: dict[str, Any]) -> Iterator[str]:
    for key in values:
        if key not in FIELDS:
            near = did_you_mean(str(key), list(FIELDS)) or f"; the fields are {', '.join(FIELDS)}"
            yield f"{key} is not a field of a sweep{near}"
    if not isinstance(values.get("base"), str):
        yield f"base is {values.get('base')!r}, expected the path of a recipe, relative to this file"
    if not isinstance(values.get("folder", ""), str | None):
        yield f"folder is {values['folder']!r}, expected a path"
    if not _are_overrides(values.get("overrides")):
        yield f"overrides is {values['overrides']!r}, expected a list of overrides such as [optimizer.eps=1e-6]"
    grid, cells, seeds = values.get("grid"), values.get("cells"), values.get("seeds")
    if not grid and not cells:
        yield "there is neither grid nor cells: give at least one setting"
    yield from _grid_problems(grid)
    named = isinstance(cells, dict) and all(_are_overrides(overrides) for overrides in cells.values())
    if cells is not None and not named:
        yield f"cells is {cells!r}, expected names with a list of overrides each, such as {{a: [optimizer.eps=1e-6]}}"
    numbers = isinstance(seeds, list) and seeds and all(type(seed) is int for seed in seeds)
    if seeds is not None and not (numbers and len(set(seeds)) == len(seeds)):
        yield f"seeds is {seeds!r}, expected a list of different whole numbers, such as [17, 18, 19]"


def _grid_problems(grid: Any) -> Iterator[str]:
    if grid is not None and not isinstance(grid, dict):
        yield f"grid is {grid!r}, expected keys with a list of values each, such as {{model.mlp: [geglu, gelu]}}"
        return
    for axis, values in (grid or {}).items():
        bundles = isinstance(values, dict) and all(_are_overrides(bundle) for bundle in values.values())
        if not values or not (bundles or isinstance(values, list)):
            yield f"grid.{axis} is {values!r}, expected a list of values, or names with a list of overrides each"


def _are_overrides(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def _grid_points(grid: dict[str, Any]) -> Iterator[_Point]:
    """Every combination of the values, the last axis running fastest, each named after its values."""
    if not grid:
        return
    titles = _short_titles(list(grid))
    axes = [list(_axis(key, titles[key], values)) for key, values in grid.items()]
    for steps in itertools.product(*axes):
        names = [name for name, _, _ in steps]
        overrides = tuple(override for _, _, bundle in steps for override in bundle)
        yield _Point("__".join(names), ", ".join(names[:-1]), steps[-1][1], overrides)


def _axis(key: str, title: str, values: Any) -> Iterator[tuple[str, str, list[str]]]:
    """For each value of an axis: the part it has in names, what it is called beside its axis, its overrides."""
    if isinstance(values, dict):
        for name, overrides in values.items():
            yield str(name), str(name), overrides or []
        return
    for value in values:
        text = value if isinstance(value, str) else json.dumps(value)
        label = re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-")
        yield f"{title}-{label}", label, [f"{key}={text}"]


def _short_titles(keys: list[str]) -> dict[str, str]:
    """The last part of each key, and as many before it as tell it from the others."""
    titles = {}
    for key in keys:
        parts = str(key).split(".")
        for length in range(1, len(parts) + 1):
            title = ".".join(parts[-length:])
            if sum(other == title or str(other).endswith(f".{title}") for other in keys) == 1:
                break
        titles[key] = title
    return titles


def _cell_points(cells: dict[str, Any]) -> Iterator[_Point]:
    for name, overrides in cells.items():
        yield _Point(str(name), "", str(name), tuple(overrides or []))


def _name_problems(points: list[_Point]) -> Iterator[str]:
    names = [point.name for point in points]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield f"there are {names.count(name)} cells called {name!r}; rename or remove one"
        if not RUN_NAME.fullmatch(name):
            yield (
                f"a cell is called {name!r}, which is to be the name of a folder; use letters, digits, '.', '_' "
                "and '-' only, a letter or digit first"
            )


def _key_problems(points: list[_Point], common: tuple[str, ...]) -> Iterator[str]:
    """Names, run folders and seeds are the sweep's own to set."""
    for where, overrides in [("overrides", common), *((f"cell {p.name}", p.overrides) for p in points)]:
        for override in overrides:
            key = override.partition("=")[0].strip()
            if key in _OWN_KEYS:
                yield f"{where}: {override!r}: {key} is set by the sweep; {_OWN_KEYS[key]}"


def _from_here(override: str, here: Path) -> str:
    """An override as the command line takes it: the path of an included file from the working directory."""
    key, _, value = override.partition("=")
    if key.strip() != "include":
        return override
    return f"include={os.path.normpath(find_yaml(value.strip(), here))}"


def _run(base: Path, cell: str, seed: int, overrides: list[str], sweep: str, folder: Path, shown: str) -> Run:
    own = [f"name={sweep}.{cell}.seed-{seed}", f"run_folder={folder / cell / f'seed-{seed}'}", f"seed={seed}"]
    recipe = load_recipe(base, [*overrides, *own], origin=shown)
    return Run(cell, seed, (*overrides, *own), recipe)


def _whose(names: list[str], num_cells: int) -> str:
    if len(names) == num_cells > 1:
        return "every cell"
    return f"cell{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _alike(cells: list[Cell]) -> Iterator[str]:
    """Yields a problem for each cell that would repeat another one."""
    seen: dict[str, str] = {}
    for cell in cells:
        essence = dump_recipe(essential(cell.runs[0].recipe))
        if essence in seen:
            yield (
                f"cells {seen[essence]} and {cell.name} are alike: with everything filled in, they would train the "
                "same model in the same way; remove one, or correct its overrides (a window, say, is of no effect "
                "where every layer is global)"
            )
        seen.setdefault(essence, cell.name)


def essential(recipe: Recipe) -> Recipe:
    """A recipe without what has no influence on what is learned: names, logging, windows that no layer has,
    thetas that rotate nothing, mask rates where nothing is masked.
    """
    unread: dict[str, Any] = dict.fromkeys(unread_fields(recipe.model), 0)
    model = dataclasses.replace(recipe.model, **unread)
    phases = {}
    for key, phase in recipe.phases.items():
        unread_here = {name: value for name, value in unread.items() if hasattr(phase, name)}
        mask_rate = phase.mask_rate if phase.objective == MaskedLM.name else 0.0
        phases[key] = dataclasses.replace(phase, mask_rate=mask_rate, **unread_here)
    return dataclasses.replace(
        recipe, name="", run_folder="", wandb=WandbConfig(), model=model, phases=phases
    )
