"""What a retrieval job reads: training pairs, and collections to search."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from modernbert_train.common.randomness import permutation
from modernbert_train.common.text import did_you_mean
from modernbert_train.retrieval.collection import Collection, from_beir, from_pairs
from modernbert_train.tasks.files import read_records
from modernbert_train.tasks.reading import read_hub_split
from modernbert_train.tasks.schema import RetrievalConfig, Suite, Task

_Row = TypeVar("_Row")


@dataclass(frozen=True)
class Pair:
    """A query, a document that answers it, and documents that do not."""

    query: str
    document: str
    negatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class Searched:
    """What a job is scored on."""

    # Name of a set -> its collection.
    local: dict[str, Collection]
    # Names of tasks and benchmarks of mteb.
    mteb: list[str]


def read_training_pairs(suite: Suite, task: Task, retrieval: RetrievalConfig) -> dict[str, list[Pair]]:
    """Read what a job trains on.

    Returns:
        Name of a task -> its training pairs.

    Raises:
        ValueError: A task has none, or a row lacks a column.
    """
    sources = {}
    for source in [suite.tasks[name] for name in retrieval.train_on] or [task]:
        if not (source.files.train or source.hub):
            raise ValueError(
                f"retrieval.train_on: task {source.name} has no pairs to train on; set its files.train or hub"
            )
        sources[source.name] = [
            _pair(row, source, where) for where, row in _rows(source, "train", source.train_rows)
        ]
    return sources


def read_searched(suite: Suite, task: Task, retrieval: RetrievalConfig) -> Searched:
    """Read what a job is scored on.

    Returns:
        Sets of the task itself by their own names, and those of other tasks by the names of these.

    Raises:
        ValueError: A file cannot be read, or a row lacks a column.
    """
    if not retrieval.evaluate_on:
        return Searched(_collections(task), list(retrieval.mteb))
    local, mteb = {}, []
    for other in [suite.tasks[name] for name in retrieval.evaluate_on]:
        sets = _collections(other)
        for name, collection in sets.items():
            local[other.name if len(sets) == 1 else f"{other.name}.{name}"] = collection
        mteb += (other.retrieval or RetrievalConfig()).mteb
    return Searched(local, mteb)


def _collections(task: Task) -> dict[str, Collection]:
    retrieval = task.retrieval or RetrievalConfig()
    if retrieval.mteb:
        return {}
    if retrieval.corpus is not None and retrieval.queries is not None:
        corpus, queries, qrels = (
            [] if file is None else list(read_records(task.path(file)))
            for file in (retrieval.corpus, retrieval.queries, retrieval.qrels)
        )
        chosen = _limited(queries, task.valid_rows, "queries")
        return {"valid": from_beir(task.name, corpus, chosen, None if retrieval.qrels is None else qrels)}
    return {
        name: from_pairs(
            task.name,
            [
                (_text(row, task.text[0], where), _text(row, task.text[1], where))
                for where, row in _rows(task, name, task.valid_rows)
            ],
        )
        for name in (task.splits.valid if task.hub else task.files.valid)
    }


def _rows(task: Task, split: str, limit: int | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the rows of "train" or of a valid set, each with its place in words."""
    if task.hub is None:
        file = task.path(task.files.train if split == "train" else task.files.valid[split])
        source, rows = str(file), _as_sequence(read_records(file))
    else:
        hub_split = task.splits.train if split == "train" else task.splits.valid[split]
        source, rows = f"{task.hub} ({hub_split})", _as_sequence(read_hub_split(task, hub_split))
    if not len(rows):
        raise ValueError(f"{source}: has no rows")
    numbers = range(len(rows)) if limit is None else _choice(len(rows), limit, split)
    for number in numbers:
        yield f"{source}: row {number + 1}", rows[number]


def _as_sequence(rows: Iterable[_Row]) -> Sequence[_Row]:
    """Return rows that can be indexed, as a dataset of the hub can, without reading all of it."""
    return rows if hasattr(rows, "__getitem__") else list(rows)  # type: ignore[return-value]


def _limited(rows: Sequence[_Row], limit: int | None, name: str) -> Sequence[_Row]:
    return rows if limit is None else [rows[number] for number in _choice(len(rows), limit, name)]


def _choice(num_rows: int, limit: int, name: str) -> list[int]:
    """Return the first `limit` numbers of a random order of the rows, the same for every model and seed."""
    return permutation(num_rows, "rows", name)[:limit].tolist()


def _pair(row: Mapping[str, Any], task: Task, where: str) -> Pair:
    query, document, *others = task.text
    negatives: list[str] = []
    for column in others:
        value = row.get(column)
        negatives += [_text(row, column, where)] if not isinstance(value, list) else map(str, value)
    return Pair(_text(row, query, where), _text(row, document, where), tuple(negatives))


def _text(row: Mapping[str, Any], column: str, where: str) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        hint = did_you_mean(column, list(row)) or f"; the columns are {', '.join(row)}"
        raise ValueError(f"{where}: no text in column {column!r}, which `text` of the task names{hint}")
    return value
