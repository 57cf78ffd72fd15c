"""The jobs of a benchmark: every model on every task with every seed, and every setting of a task's grid.

    FOLDER/MODEL/TASK/seed-1/            what `modernbert finetune` or `modernbert retrieve` has written
    FOLDER/MODEL/TASK/epochs-2/seed-1/   with a grid
    FOLDER/MODEL/TASK/seed-1.log         the output of the job

A job is nothing but such a command. It is finished when its record is there, so a benchmark keeps no state of its own.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modernbert_train.common.launching import Job
from modernbert_train.common.text import list_problems, shorten
from modernbert_train.tasks.results import RESULT_FILE, JobResult, read_result
from modernbert_train.tasks.schema import GridConfig, Suite, Task
from modernbert_train.tasks.suite import load_suite

TWIN = "random twin"
# What a score does not depend on, or what says only which jobs there are.
_NOT_COMPARED = {
    "name", "folder", "seeds", "seed", "grid", "device", "micro_batch_tokens", "protocol", "random_twin", "start_from"
}  # fmt: skip
# Files of weights, which are far larger than all others of a job.
_WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True)
class Model:
    """A model of a benchmark."""

    # In tables, and the name of its folder.
    name: str
    # As the user named it.
    path: str
    # The model that this one is the random twin of.
    twin_of: str | None = None


@dataclass(frozen=True)
class BenchmarkJob:
    """A model on a task with a seed and a setting."""

    model: Model
    # With the seed and the setting.
    task: Task
    # Of the grid, such as `epochs-2`; empty without a grid.
    setting: str
    seed: int
    out: Path
    # The words of the command after MODEL TASK OUT.
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name in messages."""
        setting = f"/{self.setting}" if self.setting else ""
        return f"{self.model.name}/{self.task.name}{setting}/seed-{self.seed}"

    def result(self) -> JobResult | None:
        """Return its record, or None if it is not finished."""
        return read_result(self.out) if (self.out / RESULT_FILE).is_file() else None


@dataclass(frozen=True)
class Benchmark:
    """What `modernbert benchmark` runs and reports."""

    suite: Suite
    models: tuple[Model, ...]
    folder: Path
    # Each stands after those that it builds on.
    jobs: tuple[BenchmarkJob, ...]

    def of(self, model: Model, task: str) -> list[BenchmarkJob]:
        """Return the jobs of a model on a task."""
        return [job for job in self.jobs if job.model == model and job.task.name == task]


def plan_benchmark(
    suite_path: str, models: Sequence[str], overrides: Sequence[str], folder: str | None, random_twin: bool
) -> Benchmark:
    """Return the jobs of a benchmark.

    Args:
        suite_path: The YAML file of the suite.
        models: Paths or names of the hub.
        overrides: Of the suite.
        folder: Of the results; None for `evaluations/SUITE`.
        random_twin: Whether each model is accompanied by its twin of random weights.

    Returns:
        The benchmark.

    Raises:
        ValueError: The suite is wrong, or a model is named twice.
    """
    suite = load_suite(suite_path, list(overrides))
    named = _name_models(models)
    if random_twin:
        named = [one for model in named for one in (model, _twin(model))]
    root = Path(folder or "evaluations/{name}".replace("{name}", suite.name))
    jobs = []
    for depth, tasks in itertools.groupby(_by_depth(suite), key=lambda task: _depth(suite, task)):
        del depth
        together = list(tasks)
        # Seeds first: a stopped benchmark has a whole table of some seeds.
        most = max(len(task.seeds) for task in together)
        for number in range(most):
            for task in together:
                for setting, values in _settings(task.grid):
                    for model in named if number < len(task.seeds) else []:
                        jobs.append(_job(root, model, task, setting, values, task.seeds[number], overrides))
    return Benchmark(suite, tuple(named), root, tuple(jobs))


def _job(
    root: Path,
    model: Model,
    task: Task,
    setting: str,
    values: dict[str, Any],
    seed: int,
    overrides: Sequence[str],
) -> BenchmarkJob:
    # What starts from a fine-tuned twin has its weights.
    is_random = model.twin_of is not None and task.start_from is None
    own = [f"{key}={value}" for key, value in values.items()]
    own += [f"seed={seed}", *(["random_twin=true"] if is_random else [])]
    return BenchmarkJob(
        model=model,
        task=replace(task, **values, seed=seed, random_twin=is_random),
        setting=setting,
        seed=seed,
        out=root / model.name / task.name / setting / f"seed-{seed}",
        overrides=(*overrides, *own),
    )


def _settings(grid: GridConfig) -> list[tuple[str, dict[str, Any]]]:
    """Return name and values of each combination of a grid; a single one without a name if it is empty."""
    axes = {key: values for key, values in dataclasses.asdict(grid).items() if values}
    combinations = itertools.product(*axes.values())
    found = [dict(zip(axes, combination, strict=True)) for combination in combinations]
    return [("__".join(f"{key}-{value:g}" for key, value in values.items()), values) for values in found]


def _depth(suite: Suite, task: Task) -> int:
    return 0 if task.start_from is None else 1 + _depth(suite, suite.tasks[task.start_from])


def _by_depth(suite: Suite) -> list[Task]:
    return sorted(suite.tasks.values(), key=lambda task: _depth(suite, task))


def _twin(model: Model) -> Model:
    return Model(f"{model.name}-random-twin", model.path, twin_of=model.name)


def _name_models(paths: Sequence[str]) -> list[Model]:
    """Name models by the last part of their paths, and by two where that is not enough.

    Returns:
        The models.

    Raises:
        ValueError: A model is named twice.
    """
    for parts in (1, 2, 3):
        names = [_short_name(path, parts) for path in paths]
        if len(set(names)) == len(names):
            return [Model(name, path) for name, path in zip(names, paths, strict=True)]
    raise ValueError(f"models are {', '.join(paths)}: name each only once")


def _short_name(path: str, num_parts: int) -> str:
    whole = Path(path).absolute() if Path(path).exists() else Path(path)
    parts = list(whole.parts)
    if whole.suffix == ".pt":  # RUN/checkpoints/step-N.pt
        parts = [part for part in (*parts[:-1], whole.stem) if part != "checkpoints"]
        num_parts += 1
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(parts[-num_parts:])).strip("-.") or "model"


# Commands


def arguments(benchmark: Benchmark, job: BenchmarkJob) -> list[str]:
    """Return the arguments of the command of a job.

    Raises:
        ValueError: The jobs are not finished that it starts from the best of.
    """
    is_retrieval = job.task.kind == "retrieval" or job.task.retrieval is not None
    start = job.model.path
    if job.task.start_from is not None:
        before = benchmark.of(job.model, job.task.start_from)
        if before[0].setting:
            before = best_jobs(before)
        if not before:
            raise ValueError(
                f"{job.name} starts from the best setting of {job.task.start_from}, which is not finished"
            )
        start = str(next((one for one in before if one.seed == job.seed), before[0]).out)
    reference = f"{benchmark.suite.path}:{job.task.name}"
    return ["retrieve" if is_retrieval else "finetune", start, reference, str(job.out), *job.overrides]


def as_jobs(benchmark: Benchmark) -> list[Job]:
    """Return the jobs in the form in which they are launched."""
    return [
        Job(
            name=job.name,
            arguments=lambda job=job: arguments(benchmark, job),  # type: ignore[misc]
            log_file=job.out.with_name(f"{job.out.name}.log"),
            after=_before(benchmark, job),
        )
        for job in benchmark.jobs
    ]


def _before(benchmark: Benchmark, job: BenchmarkJob) -> tuple[str, ...]:
    if job.task.start_from is None:
        return ()
    before = benchmark.of(job.model, job.task.start_from)
    if any(one.setting for one in before):  # the best is known when all are finished
        return tuple(one.name for one in before)
    same = [one for one in before if one.seed == job.seed]
    return tuple(one.name for one in same or before)


# States


def best_jobs(jobs: Iterable[BenchmarkJob]) -> list[BenchmarkJob]:
    """Return the finished jobs of the setting whose mean over the seeds is best; of one model on one task."""
    settings: dict[str, list[tuple[float, BenchmarkJob]]] = {}
    for job in jobs:
        if (result := job.result()) is not None:
            settings.setdefault(job.setting, []).append((result.score, job))
    if not settings:
        return []
    best = max(settings.values(), key=lambda found: statistics.fmean(score for score, _ in found))
    return [job for _, job in best]


def check_results(benchmark: Benchmark) -> None:
    """Check that every finished job ran with the settings that it has now.

    Raises:
        ValueError: Some ran with other settings.
    """
    problems = []
    for job in benchmark.jobs:
        result = job.result()
        if result is None:
            continue
        now, then = _compared(dataclasses.asdict(job.task)), _compared(result.settings)
        changed = {key for key in now.keys() & then.keys() if now[key] != then[key]}
        if changed:
            changes = ", ".join(
                f"{key} was {shorten(then[key])}, is {shorten(now[key])}" for key in sorted(changed)
            )
            problems.append(
                f"{job.out} ran with other settings: {changes}; restore them, remove this folder, or choose another "
                "--folder"
            )
    if problems:
        raise ValueError(list_problems(benchmark.suite.name, problems))


def _compared(settings: dict[str, Any]) -> dict[str, Any]:
    chosen = {key: value for key, value in settings.items() if key not in _NOT_COMPARED}
    compared: dict[str, Any] = json.loads(json.dumps(chosen, default=str))
    if isinstance(compared.get("retrieval"), dict):
        compared["retrieval"].pop("baselines", None)
    return compared


def drop_weights(benchmark: Benchmark, job: BenchmarkJob) -> None:
    """Delete the weights of a finished job that no other job starts from."""
    if any(task.start_from == job.task.name for task in benchmark.suite.tasks.values()):
        return
    for pattern in _WEIGHTS:
        for file in job.out.rglob(pattern):
            file.unlink()
