"""Tables of values: one definition, which becomes Markdown, HTML or numbers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from modernbert_train.common.text import markdown_table, without_breaks


@dataclass(frozen=True)
class MeanStd:
    """Mean and sample standard deviation; the latter is None for a single value."""

    mean: float
    std: float | None

    @classmethod
    def of(cls, values: Iterable[float]) -> MeanStd:
        """Compute both from one value or more."""
        numbers = list(values)
        return cls(statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else None)

    def text(self, form: str) -> str:
        """Format as `4.396 ± 0.012`."""
        std = "" if self.std is None else f" ± {format(self.std, form.lstrip('+'))}"
        return format(self.mean, form) + std


@dataclass(frozen=True)
class Shown:
    """A number with a text of its own, for a table whose rows have different units."""

    value: float
    text: str


Cell: TypeAlias = str | float | MeanStd | Shown | None


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    title: str
    # Format of its numbers, as of `format`.
    form: str = ""
    # Whether HTML shows the numbers, which are shares of 1, as bars too.
    bar: bool = False

    def text(self, cell: Cell) -> str:
        """Return a cell as people read it; empty if it has no value."""
        if cell is None or (isinstance(cell, float) and math.isnan(cell)):
            return ""
        if isinstance(cell, MeanStd):
            return cell.text(self.form)
        if isinstance(cell, Shown):
            return cell.text
        return cell if isinstance(cell, str) else format(cell, self.form)


@dataclass(frozen=True)
class Table:
    """Rows of values below titles; the first column names the row."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), self.title

    @classmethod
    def of_facts(cls, facts: dict[str, Cell], title: str = "") -> Table:
        """Return a table of two columns without titles: names and values."""
        return cls((Column(""), Column("")), tuple(facts.items()), title)

    def texts(self) -> list[list[str]]:
        """Return the text of every cell."""
        return [
            [column.text(cell) for column, cell in zip(self.columns, row, strict=True)] for row in self.rows
        ]

    def markdown(self) -> str:
        """Return the table in Markdown, without its title."""
        titles = [_escape(column.title) for column in self.columns]
        return markdown_table(titles, [[_escape(text) for text in row] for row in self.texts()])

    def numbers(self) -> dict[str, Any]:
        """Return the table for JSON: numbers as they are, not as they are shown."""
        return {
            "title": self.title,
            "columns": [column.title for column in self.columns],
            "rows": [[_number(cell) for cell in row] for row in self.rows],
        }


def _escape(text: str) -> str:
    """Return a text as a cell of a Markdown table: in one line, without HTML and column separators."""
    return without_breaks(text).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def _number(cell: Cell) -> Any:
    """Return the value of a cell for JSON, which has no NaN and no infinity."""
    if isinstance(cell, MeanStd):
        return {"mean": _number(cell.mean), "std": _number(cell.std)}
    value = cell.value if isinstance(cell, Shown) else cell
    return None if isinstance(value, float) and not math.isfinite(value) else value
