"""The scores of the finished jobs, and the differences that they show, as numbers for tables, pictures and files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modernbert_train.benchmark.facts import TaskFacts, task_seed
from modernbert_train.benchmark.jobs import Benchmark, BenchmarkJob, Model, best_jobs
from modernbert_train.benchmark.significance import (
    Estimate,
    Rows,
    Scores,
    difference,
    estimate,
    mean_estimate,
    resample,
)
from modernbert_train.tasks.results import (
    PREDICTIONS_FILE,
    RESULT_FILE,
    JobResult,
    read_predictions,
    read_result,
)
from modernbert_train.tasks.schema import Task

BASELINES_FOLDER = "baselines"
# In place of a task's name: the mean over the tasks.
MEAN = "mean"


@dataclass(frozen=True)
class TaskScore:
    """The score of a model, or of a baseline, on a task."""

    model: str
    task: str
    scores: Scores
    estimate: Estimate
    # One for each seed; of a baseline a single one.
    results: tuple[JobResult, ...]
    # The best of the grid; empty without a grid.
    setting: str


@dataclass(frozen=True)
class Difference:
    """How far a model is above another on a task, or in the mean over the tasks."""

    model: str
    reference: str
    task: str
    estimate: Estimate


@dataclass(frozen=True)
class Results:
    """Everything that is reported."""

    benchmark: Benchmark
    facts: dict[str, TaskFacts]
    # (model or baseline, task) -> score; those that are not finished are missing.
    scores: dict[tuple[str, str], TaskScore]
    # Model -> mean over all tasks, of those that have all.
    means: dict[str, Estimate]
    differences: list[Difference]
    baselines: list[str]
    # Names of the jobs without a result.
    missing: list[str]

    @property
    def columns(self) -> list[str]:
        """Models, twins and baselines, in the order of tables."""
        return [model.name for model in self.benchmark.models] + self.baselines


def collect_results(benchmark: Benchmark, facts: dict[str, TaskFacts]) -> Results:
    """Read the finished jobs, and compare them.

    Args:
        benchmark: The jobs.
        facts: Task -> what is known of it.

    Returns:
        The results.
    """
    scores: dict[tuple[str, str], TaskScore] = {}
    tasks = list(benchmark.suite.tasks.values())
    baselines = _baselines(benchmark)
    for task in tasks:
        for model in benchmark.models:
            if best := best_jobs(benchmark.of(model, task.name)):
                scores[model.name, task.name] = _score(task, model.name, best)
        for baseline in baselines:
            folder = benchmark.folder / BASELINES_FOLDER / baseline / task.name
            if (folder / RESULT_FILE).is_file():
                scores[baseline, task.name] = _task_score(
                    task, baseline, {0: folder}, (read_result(folder),), ""
                )
    means = {}
    for name in [model.name for model in benchmark.models] + baselines:
        found = [scores[name, task.name].estimate for task in tasks if (name, task.name) in scores]
        if len(found) == len(tasks) > 1:
            means[name] = mean_estimate(found)
    return Results(
        benchmark=benchmark,
        facts=facts,
        scores=scores,
        means=means,
        differences=_differences(benchmark.models, tasks, baselines, scores),
        baselines=baselines,
        missing=[job.name for job in benchmark.jobs if job.result() is None],
    )


def _baselines(benchmark: Benchmark) -> list[str]:
    """Return the baselines that have a record, in the order in which they are computed."""
    known = ["majority", "bag of words", "TF-IDF cosine", "BM25"]
    folder = benchmark.folder / BASELINES_FOLDER
    return [name for name in known if (folder / name).is_dir()]


def _score(task: Task, model: str, jobs: Sequence[BenchmarkJob]) -> TaskScore:
    results = tuple(read_result(job.out) for job in jobs)
    return _task_score(task, model, {job.seed: job.out for job in jobs}, results, jobs[0].setting)


def _task_score(
    task: Task, model: str, folders: dict[int, Path], results: tuple[JobResult, ...], setting: str
) -> TaskScore:
    sets = list(results[0].scores[task.metric])
    jobs = {seed: _rows(task, folder, sets) for seed, folder in folders.items()}
    seed = task_seed(task)
    found = resample(task.metric, jobs, seed)
    # Of several subsets, mteb takes a mean of means.
    found = Scores(found.seeds, np.array([result.score for result in results]), found.resampled)
    return TaskScore(model, task.name, found, estimate(found, seed), results, setting)


def _rows(task: Task, folder: Path, sets: Sequence[str]) -> dict[str, Rows]:
    arrays = read_predictions(folder)
    rows = {}
    for name in sets:
        if f"{name}.scores" in arrays:
            rows[name] = Rows(arrays[f"{name}.scores"].astype(float))
        elif f"{name}.predictions" in arrays and f"{name}.labels" in arrays:
            predictions, labels = arrays[f"{name}.predictions"], arrays[f"{name}.labels"]
            if task.kind == "tokens":
                rows[name] = Rows(predictions, labels, arrays[f"{name}.rows"], tuple(task.labels))
            else:
                rows[name] = Rows(predictions.astype(float), labels.astype(float))
        else:
            raise ValueError(
                f"{folder / PREDICTIONS_FILE} has no predictions of the valid set {name}; remove {folder}, and run "
                "the same command again"
            )
    return rows


def _differences(
    models: Sequence[Model],
    tasks: Sequence[Task],
    baselines: Sequence[str],
    scores: dict[tuple[str, str], TaskScore],
) -> list[Difference]:
    """Compare each model with its twin, else with the first one; and with the best baseline of each task."""
    pairs = [
        (one.name, other.name)
        for one in models
        for other in models
        if (other.twin_of == one.name or other == models[0]) and one.twin_of is None and one != other
    ]
    found: list[Difference] = []
    for model, reference in pairs:
        both = [task for task in tasks if {(model, task.name), (reference, task.name)} <= scores.keys()]
        compared = [_compare(task, scores[model, task.name], scores[reference, task.name]) for task in both]
        found += compared
        if len(compared) == len(tasks) > 1:
            mean = mean_estimate([one.estimate for one in compared])
            found.append(Difference(model, reference, MEAN, mean))
    for name in [one.name for one in models if one.twin_of is None]:
        for task in tasks:
            rivals = [scores[other, task.name] for other in baselines if (other, task.name) in scores]
            if rivals and (name, task.name) in scores:
                best = max(rivals, key=lambda rival: rival.scores.mean)
                found.append(_compare(task, scores[name, task.name], best))
    return found


def _compare(task: Task, one: TaskScore, other: TaskScore) -> Difference:
    return Difference(
        one.model, other.model, task.name, difference(one.scores, other.scores, task_seed(task))
    )


# Files


def to_json(results: Results) -> str:
    """Return all numbers as JSON: scores and differences from 0 to 1."""
    suite = results.benchmark.suite
    content = {
        "suite": suite.name,
        "models": [
            {"name": model.name, "path": model.path, "twin_of": model.twin_of}
            for model in results.benchmark.models
        ],
        "baselines": results.baselines,
        "tasks": {name: _task_json(task, results.facts[name]) for name, task in suite.tasks.items()},
        "scores": [_score_json(score) for score in results.scores.values()],
        "means": {name: _estimate_json(one) for name, one in results.means.items()},
        "differences": [
            {"model": one.model, "reference": one.reference, "task": one.task}
            | _estimate_json(one.estimate)
            | {"verdict": one.estimate.verdict}
            for one in results.differences
        ],
        "missing": results.missing,
    }
    return json.dumps(content, indent=1) + "\n"


def _task_json(task: Task, facts: TaskFacts) -> dict[str, Any]:
    return {
        "kind": task.kind,
        "metric": task.metric,
        "protocol": task.protocol,
        "start_from": task.start_from,
        "num_rows": facts.num_rows,
        "smallest_difference": facts.smallest_difference,
        "leaks": {
            name: {
                "rows": leaks.rows,
                "columns": leaks.columns,
                "ngrams": leaks.ngrams,
                "long_rows": leaks.long_rows,
            }
            for name, leaks in facts.leaks.items()
        },
    }


def _score_json(score: TaskScore) -> dict[str, Any]:
    first = score.results[0]
    return {
        "model": score.model,
        "task": score.task,
        "metric": first.metric,
        **_estimate_json(score.estimate),
        "spread": score.scores.spread,
        "seeds": dict(zip(map(str, score.scores.seeds), score.scores.measured.tolist(), strict=True)),
        "kept": first.kept,
        "setting": score.setting,
        "started_from": first.started_from,
        "cut_share": first.cut_share,
    }


def _estimate_json(one: Estimate) -> dict[str, Any]:
    return {"value": one.value, "interval": list(one.interval)}


def to_csv(results: Results) -> str:
    """Return a line for each finished job that is reported, and each of its scores."""
    text = io.StringIO()
    columns = ["model", "task", "setting", "seed", "score", "valid_set", "value", "kept", "step"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for one in results.scores.values():
        for result in one.results:
            for name, sets in result.scores.items():
                for valid_set, value in sets.items():
                    row = [one.model, one.task, one.setting, result.seed, name, valid_set, value]
                    writer.writerow([*row, result.kept, result.step])
    return text.getvalue()
