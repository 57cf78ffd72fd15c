"""The progress of each run of a sweep, read from its run folder; a sweep keeps no record of its own."""

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
    """The last saved optimizer step of a run, and its total number of steps."""

    step: int
    total_steps: int

    @property
    def is_finished(self) -> bool:
        """Whether all steps are trained."""
        return self.step >= self.total_steps


def read_state(run: Run) -> RunState:
    """Return the state of a run by its newest checkpoint, whose weights are not verified here."""
    step = 0
    for path in list_checkpoints(run.recipe.run_folder):
        try:
            step = read_info(path).step
        except ValueError:
            continue  # training skips a damaged checkpoint, with a warning
    return RunState(step, build_schedule(run.recipe).total_steps)


def read_tokens(run: Run) -> int:
    """Return the number of tokens in the last line of a run's metrics, which it may be writing."""
    return read_last_line(Path(run.recipe.run_folder) / METRICS_FILE).get("tokens", 0)


def check_run_folders(sweep: Sweep) -> None:
    """Check that every run folder was started with the settings that its cell has now.

    Raises:
        ValueError: Some were started with other settings.
    """
    problems = []
    for run in sweep.runs:
        if changed := changed_settings(run):
            changes = ", ".join(f"{key} was {before}, is {now}" for key, (before, now) in changed.items())
            problems.append(
                f"cell {run.cell}: {run.recipe.run_folder} was started with other settings: {changes}; restore them, "
                "rename the cell, or choose another --folder"
            )
    if problems:
        raise ValueError(list_problems(sweep.name, problems))


def changed_settings(run: Run) -> dict[str, tuple[object, object]]:
    """Return dotted key -> (value that the run was started with, value that its cell has now)."""
    file = Path(run.recipe.run_folder) / RECIPE_FILE
    if not file.is_file():
        return {}
    before, now = (_settings(recipe) for recipe in (load_recipe(file), run.recipe))
    return dict(sorted(comparison.changed_settings(before, now).items()))


def _settings(recipe: Recipe) -> dict[str, object]:
    """Return dotted key -> value of the settings that the result of a run depends on."""
    data = dataclasses.replace(recipe.data, num_workers=0, stall_seconds=1.0)
    recipe = dataclasses.replace(essential(recipe), training=TrainingConfig(), data=data)
    return comparison.recipe_settings(recipe)
