"""What is known of a task before a model has seen it: its rows, leaks, baselines, and what difference it can show."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modernbert_train.benchmark.significance import Rows, smallest_difference
from modernbert_train.tasks.baselines import predict
from modernbert_train.tasks.leaks import Leaks, find_leaks, leaks_of_task
from modernbert_train.tasks.metrics import compute_score
from modernbert_train.tasks.reading import TaskRows, read_task
from modernbert_train.tasks.results import JobResult, write_result
from modernbert_train.tasks.schema import RetrievalConfig, Suite, Task


@dataclass(frozen=True)
class TaskFacts:
    """What is known of a task."""

    # "train" and each valid set -> number of rows.
    num_rows: dict[str, int]
    # Valid set -> leaks; none of sets of mteb, which are read by the jobs alone.
    leaks: dict[str, Leaks]
    # In the unit of the metric; None where the rows are not known.
    smallest_difference: float | None


def task_seed(task: Task) -> int:
    """Return the seed of the resamples of a task."""
    return zlib.crc32(task.name.encode())


def read_facts(suite: Suite, task: Task) -> TaskFacts:
    """Read the rows of a task, and look at them.

    Returns:
        What is known of it.

    Raises:
        ValueError: A row is wrong, or a file or dataset cannot be read.
    """
    if task.kind == "retrieval":
        return _facts_of_retrieval(suite, task)
    rows = read_task(task)
    return TaskFacts(
        num_rows={"train": len(rows.train), **{name: len(part) for name, part in rows.valid.items()}},
        leaks=leaks_of_task(task, rows),
        smallest_difference=smallest_difference(task.metric, _labelled(task, rows), task_seed(task)),
    )


def _labelled(task: Task, rows: TaskRows) -> dict[str, Rows]:
    if task.kind != "tokens":
        return {
            name: Rows(np.array(part.labels, float), np.array(part.labels, float))
            for name, part in rows.valid.items()
        }
    labelled = {}
    for name, part in rows.valid.items():
        labels = np.concatenate([np.array(row, int) for row in part.labels])
        row_of = np.repeat(np.arange(len(part)), [len(row) for row in part.labels])
        labelled[name] = Rows(labels, labels, row_of, tuple(task.labels))
    return labelled


def _facts_of_retrieval(suite: Suite, task: Task) -> TaskFacts:
    from modernbert_train.retrieval.inputs import read_searched, read_training_pairs

    retrieval = task.retrieval or RetrievalConfig()
    sources = {} if retrieval.steps == 0 else read_training_pairs(suite, task, retrieval)
    train = [(pair.query, pair.document) for pairs in sources.values() for pair in pairs]
    searched = read_searched(suite, task, retrieval)
    leaks, num_rows = {}, {"train": len(train)}
    for name, collection in searched.local.items():
        num_rows[name] = len(collection.relevant)
        valid = [
            (collection.queries[query], " ".join(collection.documents[next(iter(documents))]))
            for query, documents in collection.relevant.items()
        ]
        leaks[name] = find_leaks(["query", "document"], train, valid)
    sets = {name: Rows(np.zeros(num_rows[name])) for name in searched.local}
    is_known = bool(sets) and not searched.mteb
    return TaskFacts(num_rows, leaks, smallest_difference(task.metric, sets) if is_known else None)


# Baselines


def write_baselines(suite: Suite, task: Task, folder: Path) -> None:
    """Compute the baselines of a task, and write a record for each into `folder/BASELINE/TASK`."""
    if task.kind == "retrieval":
        _write_retrieval_baselines(suite, task, folder)
        return
    if task.kind == "tokens":
        return  # words have no features of their own
    rows = read_task(task)
    is_regression = task.kind == "regression"
    found = predict(
        rows.train.texts,
        np.array(rows.train.labels),
        {name: part.texts for name, part in rows.valid.items()},
        is_regression=is_regression,
    )
    for baseline, sets in found.items():
        labels = {name: np.array(rows.valid[name].labels) for name in sets}
        scores = {
            name: compute_score(task.metric, predictions, labels[name], task.labels)
            for name, predictions in sets.items()
        }
        arrays = {f"{name}.predictions": predictions for name, predictions in sets.items()}
        arrays |= {f"{name}.labels": values for name, values in labels.items()}
        _write(task, folder / baseline / task.name, baseline, scores, arrays)


def _write_retrieval_baselines(suite: Suite, task: Task, folder: Path) -> None:
    from modernbert_train.common.extras import require_extra

    require_extra("evaluation", "mteb", "bm25s", "scikit-learn")
    from modernbert_train.retrieval.inputs import read_searched
    from modernbert_train.retrieval.lexical import LEXICAL
    from modernbert_train.retrieval.scoring import LexicalSearch, hub_tasks, local_task, score

    searched = read_searched(suite, task, task.retrieval or RetrievalConfig())
    sets = {name: local_task(name, one) for name, one in searched.local.items()} | hub_tasks(searched.mteb)
    for baseline, build in LEXICAL.items():
        found = {name: score(LexicalSearch(baseline, build), one) for name, one in sets.items()}
        scores = {name: one.means[task.metric] for name, one in found.items()}
        arrays = {f"{name}.scores": np.array(one.ndcg) for name, one in found.items()}
        _write(task, folder / baseline / task.name, baseline, scores, arrays)


def _write(task: Task, out: Path, baseline: str, scores: dict[str, float], arrays: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    result = JobResult(
        task=task.name,
        kind=task.kind,
        model=baseline,
        seed=0,
        metric=task.metric,
        scores={task.metric: scores},
        kept="last",
        step=0,
        settings={},
        protocol=task.protocol,
        num_rows={},
        cut_share={},
        seconds=0.0,
    )
    write_result(out, result, arrays)
