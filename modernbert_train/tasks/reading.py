"""The rows of a task: from files (JSONL, TSV, CSV, parquet) or from a dataset of the Hugging Face hub.

Every row is checked: a text that is missing, or a label that the task does not know, is an error that names the row.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from modernbert_train.common.randomness import permutation
from modernbert_train.common.text import did_you_mean, one_line, shorten
from modernbert_train.tasks.files import read_records
from modernbert_train.tasks.schema import SplitConfig, Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rows:
    """The rows of one split."""

    # Each with one text or two. Kind tokens: the words of the row.
    texts: list[tuple[str, ...]]
    # The number of the class; regression: a number; tokens: a list with the number of each word's class.
    labels: list[Any]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Iterable[int]) -> Rows:
        """Return some of the rows."""
        indices = list(indices)
        return Rows([self.texts[i] for i in indices], [self.labels[i] for i in indices])


@dataclass(frozen=True)
class TaskRows:
    """All rows of a task. Valid set -> its rows."""

    train: Rows
    valid: dict[str, Rows]


def read_task(task: Task) -> TaskRows:
    """Read the rows of a task, divide them if it has `split`, and keep as many as it asks for.

    Returns:
        The rows: the same for every model and seed.

    Raises:
        ValueError: A file or dataset cannot be read, a row lacks a text or has an unknown label, or there is no row.
    """
    read = _read_hub if task.hub is not None else _read_files
    train, train_groups, valid = read(task)
    if task.split is not None:
        everything, groups = train, train_groups
        for rows, valid_groups in valid.values():
            everything = Rows(everything.texts + rows.texts, everything.labels + rows.labels)
            groups = groups + valid_groups
        held_out = _held_out(groups, task.split, task.name)
        train = everything.take(i for i, out in enumerate(held_out) if not out)
        sets = {"valid": everything.take(i for i, out in enumerate(held_out) if out)}
    else:
        sets = {name: rows for name, (rows, _) in valid.items()}
    train = _limit(train, task.train_rows, "train")
    sets = {name: _limit(rows, task.valid_rows, name) for name, rows in sets.items()}
    for name, rows in {"train": train, **sets}.items():
        if not len(rows):
            raise ValueError(f"{task.name}: {name} has no rows")
    if task.kind == "classification":
        _check_classes(task, train, sets)
    return TaskRows(train, sets)


# Rows, and the group of each (its text, or its number).
_Grouped = tuple[Rows, list[Any]]


def _read_files(task: Task) -> tuple[Rows, list[Any], dict[str, _Grouped]]:
    parse = _RowParser(task).parse
    train, groups = parse(str(task.path(task.files.train)), read_records(task.path(task.files.train)))
    valid = {}
    for name, file in task.files.valid.items():
        valid[name] = parse(str(task.path(file)), read_records(task.path(file)))
    return train, groups, valid


def _read_hub(task: Task) -> tuple[Rows, list[Any], dict[str, _Grouped]]:
    parse = _RowParser(task).parse
    train, groups = parse(f"{task.hub} ({task.splits.train})", read_hub_split(task, task.splits.train))
    valid = {
        name: parse(f"{task.hub} ({split})", read_hub_split(task, split))
        for name, split in task.splits.valid.items()
    }
    return train, groups, valid


def read_hub_split(task: Task, split: str) -> Iterable[dict[str, Any]]:
    """Return the rows of a split of the task's dataset on the hub, downloaded or from the cache of `datasets`.

    Raises:
        ValueError: It cannot be loaded, or numbers its labels in another order than the task.
    """
    import datasets  # takes seconds

    try:
        rows = datasets.load_dataset(task.hub, task.config, split=split, revision=task.revision)
    except Exception as error:  # of the network, the hub, or a dataset's files
        raise ValueError(
            f"{task.name}: split {split} of hub {task.hub} cannot be loaded ({one_line(error):.300}); without "
            "network, set files: {train: PATH, valid: PATH} and hub: null"
        ) from None
    names = getattr(rows.features.get(task.label), "names", None)
    if names and names != task.labels and sorted(names) == sorted(task.labels):
        raise ValueError(
            f"{task.name}: labels are {', '.join(task.labels)}, but {task.hub} numbers them in the order "
            f"{', '.join(names)}; write them in that order"
        )
    return rows


class _RowParser:
    """Turns records into rows of a task."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._group_by = task.split.group_by if task.split is not None else None
        self._numbers = {name: number for number, name in enumerate(task.labels)}
        self._label = {"regression": self._number, "tokens": self._classes}.get(task.kind, self._class)

    def parse(self, where: str, records: Iterable[dict[str, Any]]) -> _Grouped:
        """Return the rows of a file or split, and their groups."""
        rows, groups = Rows([], []), []
        columns = [*self._task.text, self._task.label, *([self._group_by] if self._group_by else [])]
        for number, record in enumerate(records, start=1):
            try:
                for column in columns:
                    if record.get(column) is None:
                        raise ValueError(self._missing(column, record))
                label = self._label(record[self._task.label])
                rows.texts.append(self._texts(record, label))
            except ValueError as error:
                raise ValueError(f"{where}: row {number}: {error}") from None
            rows.labels.append(label)
            groups.append(object() if self._group_by is None else str(record[self._group_by]))
        return rows, groups

    def _missing(self, column: str, record: dict[str, Any]) -> str:
        if column in record:
            return f"{column} is empty"
        field = (
            "label"
            if column == self._task.label
            else "split.group_by"
            if column == self._group_by
            else "text"
        )
        columns = [str(name) for name in record]
        hint = did_you_mean(column, columns) or f"; the columns are {', '.join(columns)}"
        return f"there is no column {column!r}, which the task names as {field}{hint}"

    def _texts(self, record: dict[str, Any], label: Any) -> tuple[str, ...]:
        if self._task.kind != "tokens":
            return tuple(_text(column, record[column]) for column in self._task.text)
        column = self._task.text[0]
        words = record[column]
        words = words.split() if isinstance(words, str) else words
        if not isinstance(words, list) or len(words) != len(label):
            count = f"{len(words)} words" if isinstance(words, list) else shorten(words)
            raise ValueError(
                f"{column} is {count}, expected a list with a word for each of the {len(label)} labels"
            )
        return tuple(_text(column, word) for word in words)

    def _classes(self, value: Any) -> list[int]:
        value = value.split() if isinstance(value, str) else value
        if not isinstance(value, list):
            raise ValueError(
                f"{self._task.label} is {shorten(value)}, expected a list with a label for each word"
            )
        return [self._class(label) for label in value]

    def _class(self, value: Any) -> int:
        """Return the number of a class, which a row names by its name or its number."""
        name = str(value).lower() if isinstance(value, bool) else str(value)
        if name in self._numbers:
            return self._numbers[name]
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if number in range(len(self._numbers)):
            return int(number)
        names = self._task.labels
        hint = " (a test split whose labels are hidden?)" if number == -1 else did_you_mean(name, names)
        raise ValueError(
            f"{self._task.label} is {shorten(value)}, expected one of {', '.join(names)}, or its number from 0 to "
            f"{len(names) - 1}{hint}"
        )

    def _number(self, value: Any) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if isinstance(value, bool) or not math.isfinite(number):
            raise ValueError(f"{self._task.label} is {shorten(value)}, expected a number")
        return number


def _text(column: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{column} is {shorten(value)}, expected text")
    return value


def _held_out(groups: list[Any], split: SplitConfig, name: str) -> list[bool]:
    """Return for each row whether it is held out: whole groups are."""
    numbers: dict[Any, int] = {}
    for group in groups:
        numbers.setdefault(group, len(numbers))
    if len(numbers) < 2:
        raise ValueError(f"{name}: split.group_by is {split.group_by}, by which all rows are one group")
    num_held_out = min(max(1, round(split.valid_fraction * len(numbers))), len(numbers) - 1)
    chosen = set(permutation(len(numbers), "split", split.seed)[:num_held_out].tolist())
    return [numbers[group] in chosen for group in groups]


def _limit(rows: Rows, limit: int | None, name: str) -> Rows:
    if limit is None or limit >= len(rows):
        return rows
    return rows.take(islice(permutation(len(rows), "rows", name).tolist(), limit))


def _check_classes(task: Task, train: Rows, valid: dict[str, Rows]) -> None:
    present = set(train.labels)
    if len(present) == 1:
        (only,) = present
        raise ValueError(
            f"{task.name}: all {len(train):,} rows to train on have the label {task.labels[only]!r}, so that there is "
            "nothing to learn; train on rows of at least two classes"
        )
    for name, rows in valid.items():
        if unseen := sorted(set(rows.labels) - present):
            names = ", ".join(task.labels[label] for label in unseen)
            log.warning("%s: %s has rows of %s, which no row to train on has", task.name, name, names)
