"""Inputs -> numbered rows, streamed in constant memory. Whatever a reader raises becomes an UnreadableFile."""

import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from data_prep.inputs.formats import kind_of
from data_prep.inputs.reading import LINE, WHOLE_FILE, Reading
from data_prep.inputs.streams import OtherEncoding
from modernbert_train.common.text import one_line

HUB_PREFIX = "hf:"
MAX_ROW_BYTES = 64 << 20  # of a line, a value or a separated text, which is in memory as a whole
TOO_LONG = (
    f"is longer than {MAX_ROW_BYTES >> 20} MB; split it, or make it a .txt file, which is read in pieces"
)
MAX_MESSAGE_CHARACTERS = 1_000


class Span(NamedTuple):
    """A range [first, last) of one input; by default all of it.

    The unit is a byte of a file of lines, a row group of .parquet, a row of a saved dataset, or a file of a Hub
    dataset.
    """

    item: str
    first: int = 0
    last: int | None = None


class Unreadable(ValueError):
    """Something cannot be read; the message is one line."""

    def __init__(self, message: str) -> None:
        line = " ".join(message.splitlines())
        super().__init__(
            line if len(line) <= MAX_MESSAGE_CHARACTERS else line[:MAX_MESSAGE_CHARACTERS] + "..."
        )


class UnreadableFile(Unreadable):
    """A file cannot be read to its end."""


class UnreadableDocument(Unreadable):
    """A line or row is not a valid document; the next one may be."""


def is_cut_by_lines(item: str, reading: Reading) -> bool:
    """Check whether each line of a file is a document."""
    kind = kind_of(item)
    return kind is not None and (
        kind.format == "jsonl" or (kind.format == "txt" and reading.documents == LINE)
    )


class Place(NamedTuple):
    """A row: `read_rows` numbers lines within their span. As a string, the file and the line or row."""

    span: Span
    number: int
    reading: Reading

    def __str__(self) -> str:
        return _place(*self)


def _place(span: Span, number: int, reading: Reading) -> str:
    if span.item.startswith(HUB_PREFIX):
        return f"{span.item}, {'' if span.last is None else f'file {span.first}, '}row {number}"
    if is_cut_by_lines(span.item, reading):
        return f"{span.item}:{number + _lines_before(span)}"
    kind = kind_of(span.item)
    if kind is None or kind.format != "txt":
        return f"{span.item}, row {number}"
    return span.item if reading.documents in (None, WHOLE_FILE) else f"{span.item}, document {number}"


@lru_cache(1)  # a span may have many bad lines
def _lines_before(span: Span) -> int:
    """Count the lines that belong to earlier spans."""
    if span.first == 0:
        return 0
    with open(span.item, "rb") as file:
        blocks = iter(lambda: file.read(min(1 << 20, span.first - 1 - file.tell())), b"")
        return 1 + sum(block.count(b"\n") for block in blocks)


def read_rows(span: Span, reading: Reading) -> Iterator[tuple[int, Any]]:
    """Read the rows of a span.

    Args:
        span: of an input.
        reading: of its source.

    Yields:
        The number of a row, from 1, and its content: a mapping, other decoded JSON, or the exception that says why
        the row cannot be used.

    Raises:
        UnreadableFile: The input cannot be read to its end.
    """
    number = 0
    try:
        for number, row in _reader_of(span.item)(span, reading):
            yield number, row
    except UnreadableFile:
        raise
    except OtherEncoding as error:
        raise UnreadableFile(f"{Place(span, number + 1, reading)}: {error}") from error
    except Exception as error:  # the libraries that read files have no common type of error
        if isinstance(error, UnicodeError):
            remedy = "name its encoding with --encoding"
        else:
            remedy = "make it readable" if isinstance(error, PermissionError) else "restore the file"
        place = Place(span, number + 1, reading)
        raise UnreadableFile(f"{place}: cannot be read ({one_line(error)}); {remedy}") from error


def _reader_of(item: str) -> Callable[[Span, Reading], Iterator[tuple[int, Any]]]:
    if item.startswith(HUB_PREFIX) or os.path.isdir(item):
        from data_prep.inputs import hub

        return hub.hub_rows if item.startswith(HUB_PREFIX) else hub.saved_rows
    kind = kind_of(item)
    assert kind is not None, item  # resolve_inputs checks it
    match kind.format:
        case "jsonl" | "json":
            from data_prep.inputs import json_rows

            return json_rows.line_rows if kind.format == "jsonl" else json_rows.json_rows
        case "csv" | "tsv" | "parquet":
            from data_prep.inputs import tables

            return tables.parquet_rows if kind.format == "parquet" else tables.csv_rows
        case _:
            from data_prep.inputs import text_files

            return text_files.text_rows


def attempt(make: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns, or the exception that it raises."""
    try:
        return make(*arguments)
    except Exception as error:  # whatever it is, it concerns one row
        return error
