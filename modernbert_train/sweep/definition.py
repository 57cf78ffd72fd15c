"""Reads a sweep file: a base recipe, and the settings under which it is trained, each with every seed.

    base: ../quickstart.yaml                     # relative to this file, like the file of an override include=FILE
    overrides: [phases.pretrain.tokens=500K]     # in every cell
    grid:                                        # one cell for each combination
      model.local_attention: [64, 128]
      optimizer:                                 # a name that is not a field: named lists of overrides
        adamw: [optimizer.name=adamw, optimizer.gradient_clip_norm=1.0]
        muon: [optimizer.name=muon]
    cells:                                       # further cells
      all-global: [model.global_attn_every_n_layers=1]
    seeds: [17, 18, 19]
    folder: sweeps/{name}                        # {name}: of this file; a run is in {folder}/{cell}/seed-17

A cell is nothing but overrides: its run is `modernbert train BASE OVERRIDES`.
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

from modernbert_train.checkpoints.recipes import load_run_recipe
from modernbert_train.common.text import did_you_mean, list_problems
from modernbert_train.config import Recipe, WandbConfig, dump_recipe
from modernbert_train.config.architecture import unread_fields
from modernbert_train.config.overrides import read_mapping
from modernbert_train.config.shipped import find_yaml
from modernbert_train.config.validation import RUN_NAME
from modernbert_train.objectives import OBJECTIVES

FIELDS = ("base", "overrides", "grid", "cells", "seeds", "folder")
_RESERVED = {"name": "it follows from the cell", "run_folder": "set folder", "seed": "list it under seeds"}


@dataclass(frozen=True)
class Run:
    """A cell with one seed. `overrides` turn the base into its recipe."""

    cell: str
    seed: int
    overrides: tuple[str, ...]
    recipe: Recipe

    @property
    def name(self) -> str:
        """The name in messages, and the folder of the run below that of the sweep."""
        return f"{self.cell}/seed-{self.seed}"


@dataclass(frozen=True)
class Cell:
    """One setting, with a run for each seed."""

    name: str
    # In the picture: the line that connects cells (empty for none), and the label on the x-axis.
    series: str
    label: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Sweep:
    """A sweep file, with the recipe of every run."""

    name: str
    base: Path
    folder: Path
    # The last field of the grid, whose values label the x-axis of the picture; empty without a grid.
    axis: str
    cells: tuple[Cell, ...]

    @property
    def runs(self) -> list[Run]:
        """All runs, cell by cell."""
        return [run for cell in self.cells for run in cell.runs]


@dataclass(frozen=True)
class _Setting:
    name: str
    series: str
    label: str
    overrides: tuple[str, ...]


def read_sweep(path: str | Path, overrides: list[str] | None = None, folder: str | None = None) -> Sweep:
    """Read a sweep file and load the recipe of every run.

    Args:
        path: The file, or the name of one that ships with the package.
        overrides: Overrides of every cell, stronger than those in the file.
        folder: Folder of the runs, instead of the file's.

    Returns:
        The sweep.

    Raises:
        ValueError: Fields are unknown or wrong, recipes are wrong, or two cells are equivalent; all problems of a kind
            are listed together.
    """
    path = find_yaml(path)
    shown = os.path.normpath(path)
    overrides = overrides or []
    values = read_mapping(path, shown, "a sweep is a mapping (base: ..., grid: ..., seeds: ...)")
    _raise_problems(shown, _field_problems(values))
    settings = [*_grid_settings(values.get("grid") or {}), *_cell_settings(values.get("cells") or {})]
    common = tuple(values.get("overrides") or [])
    _raise_problems(
        shown, [*_name_problems(settings), *_reserved_field_problems(settings, (*common, *overrides))]
    )
    base = Path(os.path.normpath(find_yaml(values["base"], path.parent, f" (base of {shown})")))
    sweep_folder = Path((folder or values.get("folder") or "sweeps/{name}").replace("{name}", path.stem))
    seeds = values.get("seeds") or [load_run_recipe(base).seed]
    failed_cells: dict[str, list[str]] = {}
    cells = []
    for setting in settings:
        try:
            written = [_resolve_include(text, path.parent) for text in (*common, *setting.overrides)]
            runs = []
            for seed in seeds:
                run_folder = sweep_folder / setting.name / f"seed-{seed}"
                name = f"{path.stem}.{setting.name}.seed-{seed}"
                reserved = [f"name={name}", f"run_folder={run_folder}", f"seed={seed}"]
                all_overrides = [*written, *overrides, *reserved]
                recipe = load_run_recipe(base, all_overrides, origin=shown)
                runs.append(Run(setting.name, seed, tuple(all_overrides), recipe))
        except ValueError as error:
            failed_cells.setdefault(str(error).replace(f"{shown}: ", ""), []).append(setting.name)
        else:
            cells.append(Cell(setting.name, setting.series, setting.label, tuple(runs)))
    _raise_problems(
        shown, [f"{_cells_text(names, len(settings))}: {text}" for text, names in failed_cells.items()]
    )
    _raise_problems(shown, _equivalent_cells(cells))
    axis = list(values.get("grid") or {""})[-1]
    return Sweep(path.stem, base, sweep_folder, axis, tuple(cells))


def _raise_problems(shown: str, problems: Iterator[str] | list[str]) -> None:
    found = [f"{shown}: {problem}" for problem in problems]
    if found:
        raise ValueError(list_problems(shown, found))


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
        yield "there is neither grid nor cells; add at least one setting"
    yield from _grid_problems(grid)
    if cells is not None and not _are_named_overrides(cells):
        yield f"cells is {cells!r}, expected names with a list of overrides each, such as {{a: [optimizer.eps=1e-6]}}"
    numbers = isinstance(seeds, list) and seeds and all(type(seed) is int for seed in seeds)
    if seeds is not None and not (numbers and len(set(seeds)) == len(seeds)):
        yield f"seeds is {seeds!r}, expected a list of different whole numbers, such as [17, 18, 19]"


def _grid_problems(grid: Any) -> Iterator[str]:
    if grid is not None and not isinstance(grid, dict):
        yield f"grid is {grid!r}, expected keys with a list of values each, such as {{model.mlp: [geglu, gelu]}}"
        return
    for axis, values in (grid or {}).items():
        if not values or not (isinstance(values, list) or _are_named_overrides(values)):
            yield f"grid.{axis} is {values!r}, expected a list of values, or names with a list of overrides each"


def _are_named_overrides(value: Any) -> bool:
    return isinstance(value, dict) and all(_are_overrides(overrides) for overrides in value.values())


def _are_overrides(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def _grid_settings(grid: dict[str, Any]) -> Iterator[_Setting]:
    """Yield every combination of the values, the last axis varying fastest, each named after its values."""
    if not grid:
        return
    axes = [
        list(_axis_values(key, title, values))
        for (key, values), title in zip(grid.items(), _short_titles(list(grid)), strict=True)
    ]
    for combination in itertools.product(*axes):
        names = [name for name, _, _ in combination]
        overrides = tuple(override for *_, value_overrides in combination for override in value_overrides)
        yield _Setting("__".join(names), ", ".join(names[:-1]), combination[-1][1], overrides)


def _axis_values(key: str, title: str, values: Any) -> Iterator[tuple[str, str, list[str]]]:
    """Yield for each value of an axis: its part of a cell's name, its label, its overrides."""
    if isinstance(values, dict):
        for name, overrides in values.items():
            yield str(name), str(name), overrides or []
        return
    for value in values:
        text = value if isinstance(value, str) else json.dumps(value)
        label = re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-")
        yield f"{title}-{label}", label, [f"{key}={text}"]


def _short_titles(keys: list[str]) -> list[str]:
    """Return the last part of each dotted key, with as many parts before it as make it unique."""
    titles = []
    for key in keys:
        parts = str(key).split(".")
        endings = [".".join(parts[start:]) for start in reversed(range(len(parts)))]
        matches = [sum(f".{other}".endswith(f".{ending}") for other in keys) for ending in endings]
        titles.append(endings[matches.index(1)] if 1 in matches else str(key))
    return titles


def _cell_settings(cells: dict[str, Any]) -> Iterator[_Setting]:
    for name, overrides in cells.items():
        yield _Setting(str(name), "", str(name), tuple(overrides or []))


def _name_problems(settings: list[_Setting]) -> Iterator[str]:
    names = [setting.name for setting in settings]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield f"{names.count(name)} cells are named {name!r}; rename or remove one"
        if not RUN_NAME.fullmatch(name):
            yield (
                f"a cell is named {name!r}, which cannot be the name of a folder; use letters, digits, '.', '_' and "
                "'-' only, starting with a letter or digit"
            )


def _reserved_field_problems(settings: list[_Setting], common: tuple[str, ...]) -> Iterator[str]:
    """Yield a problem for each override of a field that the sweep sets."""
    for where, overrides in [("overrides", common), *((f"cell {s.name}", s.overrides) for s in settings)]:
        for override in overrides:
            key = override.partition("=")[0].strip()
            if key in _RESERVED:
                yield f"{where}: {override!r}: {key} is set by the sweep; {_RESERVED[key]}"


def _resolve_include(override: str, folder: Path) -> str:
    """Turn the path of `include=FILE`, relative to `folder`, into one relative to the working directory."""
    key, _, value = override.partition("=")
    if key.strip() != "include":
        return override
    return f"include={os.path.normpath(find_yaml(value.strip(), folder))}"


def _cells_text(names: list[str], num_cells: int) -> str:
    if len(names) == num_cells > 1:
        return "every cell"
    return f"cell{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _equivalent_cells(cells: list[Cell]) -> Iterator[str]:
    """Yield a problem for each cell that would repeat another one."""
    seen: dict[str, str] = {}
    for cell in cells:
        recipe = dump_recipe(essential(cell.runs[0].recipe))
        if recipe in seen:
            yield (
                f"cells {seen[recipe]} and {cell.name} are equivalent: they would train the same model in the same "
                "way; remove one, or correct its overrides (a field may have no effect, such as model.local_attention "
                "where every layer is global)"
            )
        seen.setdefault(recipe, cell.name)


def essential(recipe: Recipe) -> Recipe:
    """Return a recipe in which all fields that do not influence training are blank."""
    unread: dict[str, Any] = dict.fromkeys(unread_fields(recipe.model), 0)
    phases = {}
    for name, phase in recipe.phases.items():
        unread_in_phase = {field: value for field, value in unread.items() if hasattr(phase, field)}
        mask_rate = phase.mask_rate if OBJECTIVES[phase.objective].reads_mask_rate else 0.0
        phases[name] = dataclasses.replace(phase, mask_rate=mask_rate, **unread_in_phase)
    return dataclasses.replace(
        recipe,
        name="",
        run_folder="",
        wandb=WandbConfig(),
        model=dataclasses.replace(recipe.model, **unread),
        phases=phases,
    )
