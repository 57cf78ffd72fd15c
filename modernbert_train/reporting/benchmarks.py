"""Benchmark results as a section of a report: the scores of `modernbert benchmark`, or of single fine-tuning jobs.

Scores of different protocols never share a table.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modernbert_train.common.tables import Column, MeanStd, Table
from modernbert_train.common.text import one_line
from modernbert_train.reporting.charts import DotChart, Dots
from modernbert_train.reporting.page import Block, Legend, Section, Text
from modernbert_train.tasks.results import RESULT_FILE, JobResult, read_result

RESULTS_FILE = "results.json"
# Folders below the named one in which jobs are looked for.
_DEPTH = 4
_OWN_PROTOCOL = "of its own"
# What a difference is of.
_PAIR = ("model", "reference", "task")


@dataclass(frozen=True)
class Score:
    """The main score of a model on a task, from 0 to 1, for each seed."""

    model: str
    task: str
    metric: str
    protocol: str
    # Whether it is of the best or of the last evaluation.
    kept: str
    # What distinguishes it from other scores of the task, in words.
    setting: str
    values: tuple[float, ...]

    @property
    def row(self) -> tuple[str, str, str, str]:
        """What a row of a table has in common."""
        return self.task, self.metric, self.kept, self.setting


@dataclass(frozen=True)
class BenchmarkRecord:
    """What a folder holds of a benchmark."""

    name: str
    scores: list[Score] = field(default_factory=list)
    # Of results.json: model, reference, task, value, interval, verdict.
    differences: list[Mapping[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether the folder holds nothing of a benchmark."""
        return not self.scores and not self.problems


def read_benchmark(folder: Path, name: str) -> BenchmarkRecord:
    """Read the results of a folder: results.json of a benchmark, else result.json of every job in it.

    Args:
        folder: Of a benchmark, a job or a run.
        name: For people.

    Returns:
        The results; empty if there are none.
    """
    if (folder / RESULTS_FILE).is_file():
        try:
            return _of_benchmark(json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8")), name)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return BenchmarkRecord(
                name, problems=[f"{folder / RESULTS_FILE} cannot be read: {one_line(error)}"]
            )
    # Jobs that differ in more than the seed are not averaged.
    found: dict[tuple[str, str], list[JobResult]] = {}
    problems = []
    patterns = ["/".join([*["*"] * depth, RESULT_FILE]) for depth in range(_DEPTH + 1)]
    for file in sorted(file for pattern in patterns for file in folder.glob(pattern)):
        try:
            job = read_result(file.parent)
            if not math.isfinite(job.score):
                problems.append(f"{file}: the score is {job.score}")
                continue
            same = dataclasses.replace(
                job, seed=0, scores={}, step=0, num_rows={}, cut_share={}, seconds=0, details={}
            )
            settings = {key: value for key, value in job.settings.items() if key != "seeds"}
            key = repr(dataclasses.replace(same, settings={})), json.dumps(settings, sort_keys=True)
            found.setdefault(key, []).append(job)
        except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
            problems.append(one_line(error))
    return BenchmarkRecord(name, [_of_jobs(jobs) for jobs in found.values()], problems=problems)


def _of_jobs(jobs: Sequence[JobResult]) -> Score:
    """Return the score of jobs that differ in their seeds only."""
    job = jobs[0]
    named = {"learning_rate": "learning rate", "epochs": "epochs"}
    return Score(
        model=f"{job.model}, random twin" if job.random_twin else job.model,
        task=job.task,
        metric=job.metric,
        protocol=job.protocol or _OWN_PROTOCOL,
        kept=job.kept,
        setting=", ".join(
            f"{title} {job.settings[key]}" for key, title in named.items() if key in job.settings
        ),
        values=tuple(job.score for job in jobs),
    )


def _of_benchmark(content: Mapping[str, Any], name: str) -> BenchmarkRecord:
    scores = [
        Score(
            str(one["model"]),
            str(one["task"]),
            str(one["metric"]),
            str(content["tasks"][one["task"]]["protocol"] or _OWN_PROTOCOL),
            str(one["kept"]),
            str(one["setting"]),
            tuple(float(value) for value in one["seeds"].values()),
        )
        for one in content["scores"]
    ]
    differences: list[Mapping[str, Any]] = [
        {**one, "value": float(one["value"]), "interval": [float(end) for end in one["interval"]]}
        for one in content["differences"]
    ]
    return BenchmarkRecord(name, scores, differences)


def benchmark_section(record: BenchmarkRecord) -> Section:
    """Return a table and a chart for each protocol, and the differences with their intervals."""
    blocks: list[Block] = [Text(problem, is_warning=True) for problem in record.problems]
    protocols = list(dict.fromkeys(score.protocol for score in record.scores))
    if len(protocols) > 1:
        blocks.append(Text("Scores of different protocols cannot be compared; each has a table of its own."))
    for protocol in protocols:
        blocks += _of_protocol(protocol, [score for score in record.scores if score.protocol == protocol])
    if record.differences:
        columns = map(Column, ("model", "compared with", "task"))
        numbers = [Column(title, "+.1%") for title in ("difference", "from", "to")]
        rows = tuple(
            (*(str(one[key]) for key in _PAIR), one["value"], *one["interval"], str(one["verdict"]))
            for one in record.differences
        )
        title = "Differences, with 95% intervals over rows and seeds"
        blocks.append(Table((*columns, *numbers, Column("it is")), rows, title))
    return Section(f"Benchmark {record.name}", blocks)


def _of_protocol(protocol: str, scores: Sequence[Score]) -> list[Block]:
    models = list(dict.fromkeys(score.model for score in scores))
    # Scores of one model that differ in what the table does not show get rows of their own.
    rows: list[tuple[tuple[str, ...], dict[str, MeanStd]]] = []
    for score in scores:
        row = next((cells for name, cells in rows if name == score.row and score.model not in cells), None)
        if row is None:
            row = {}
            rows.append((score.row, row))
        row[score.model] = MeanStd.of(score.values)
    titles = ["task", "metric", "weights"] + ["setting"] * any(score.setting for score in scores)
    columns = [*map(Column, titles), *(Column(model, ".1%") for model in models)]
    cells = tuple((*name[: len(titles)], *(row.get(model) for model in models)) for name, row in rows)
    dots = tuple(Dots(score.task, score.model, (tuple(100 * x for x in score.values),)) for score in scores)
    unit = "percent; mean and standard deviation over seeds"
    return [
        Legend(tuple((model, model, number) for number, model in enumerate(models))),
        DotChart(f"Scores, protocol {protocol}", unit, ("score",), dots, form=".1f"),
        Table(tuple(columns), cells, f"Mean ± standard deviation over seeds, protocol {protocol}"),
    ]
