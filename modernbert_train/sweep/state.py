"""How far each run of a sweep is, by what lies in its run folder: the sweep itself keeps no record."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from modernbert_train.checkpoints.info import read_info
from modernbert_train.checkpoints.run_files import METRICS_FILE, RECIPE_FILE, list_checkpoints, read_last_line
from modernbert_train.common.text import list_problems
from modernbert_train.config import Recipe, TrainingConfig, comparison, load_recipe
from modernbert_train.schedule import build_schedule
from modernbert_train.sweep.definition import Run, Sweep, essential


@dataclass(frozen=True)
class RunState:
    """Saved optimizer steps of a run, and those it has in all."""

    step: int
    total_steps: int

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to train."""
        return self.step >= self.total_steps

    def __str__(self) -> str:
        if self.is_finished:
            return "finished"
        return f"step {self.step:,} of {self.total_steps:,}" if self.step else "to do"


def read_state(run: Run) -> RunState:
    """Where the newest checkpoint of a run stands; its bytes are verified by whoever loads it."""
    step = 0
    for path in list_checkpoints(run.recipe.run_folder):
        try:
            step = read_info(path).step
        except ValueError:
            continue  # a damaged one: training passes over it, and says so
    return RunState(step, build_schedule(run.recipe).total_steps)


def read_tokens(run: Run) -> int:
    """Tokens by the last whole line of its metrics; it may be writing just now."""
    return read_last_line(Path(run.recipe.run_folder) / METRICS_FILE).get("tokens", 0)


def check_run_folders(sweep: Sweep) -> None:
    """ValueError where a run was begun with other settings than its cell has now: one would be taken for the other."""
    problems = []
    for run in sweep.runs:
        if changed := changed_settings(run):
            told = ", ".join(f"{key} was {then}, is {now}" for key, (then, now) in changed.items())
            problems.append(
                f"cell {run.cell}: {run.recipe.run_folder} was begun with other settings: {told}; restore them, "
                "rename the cell, or choose another --folder"
            )
    if problems:
        raise ValueError(list_problems(sweep.name, problems))


def changed_settings(run: Run) -> dict[str, tuple[object, object]]:
    """Dotted key -> value that a run was begun with, and that its cell has now."""
    file = Path(run.recipe.run_folder) / RECIPE_FILE
    if not file.is_file():
        return {}
    then, now = (_settings(recipe) for recipe in (load_recipe(file), run.recipe))
    return dict(sorted(comparison.changed_settings(then, now).items()))


def _settings(recipe: Recipe) -> dict[str, object]:
    """Dotted key -> value of what the result of a run depends on."""
    data = dataclasses.replace(recipe.data, num_workers=0)
    recipe = dataclasses.replace(essential(recipe), training=TrainingConfig(), data=data)
    return comparison.recipe_settings(recipe)
