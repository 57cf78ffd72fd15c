"""Files, saved datasets and Hub datasets -> numbered lines and rows, streamed in constant memory.

Only a line feed ends a JSON line: `str.splitlines` would also split at U+2028, which JSON does not escape.
"""

import csv
import gzip
import io
import os
import sys
import zlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow
import pyarrow.parquet

from modernbert_train.common.text import one_line

JSON_LINES = (".jsonl", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".json.zst")
TABLES = (".csv", ".csv.gz", ".csv.zst")
ENDINGS = (*JSON_LINES, ".parquet", *TABLES, ".txt")
HUB_PREFIX = "hf:"
PARQUET_ROWS = 1_000  # rows held in memory at once


class Span(NamedTuple):
    """A range [first, last) of one input; by default all of it.

    The unit is a byte of .jsonl, a row group of .parquet, a row of a saved dataset, or a file of a Hub dataset.
    """

    item: str
    first: int = 0
    last: int | None = None


class UnreadableFile(ValueError):
    """A file cannot be read to its end."""


class UnreadableDocument(ValueError):
    """A line or row is not a valid document; the next one may be."""


def place_of(span: Span, number: int) -> str:
    """Return the file and line (or row) of a number from `read_rows`, which numbers JSON lines within their span."""
    if span.item.endswith(".txt"):
        return span.item
    if span.item.startswith(HUB_PREFIX) and span.last is not None:
        return f"{span.item}, file {span.first}, row {number}"
    if not span.item.endswith(JSON_LINES):
        return f"{span.item}, row {number}"
    return f"{span.item}:{number + _lines_before(span)}"


@lru_cache(1)  # a span may have many bad lines
def _lines_before(span: Span) -> int:
    """Count the lines that belong to earlier spans."""
    if span.first == 0:
        return 0
    with open(span.item, "rb") as file:
        blocks = iter(lambda: file.read(min(1 << 20, span.first - 1 - file.tell())), b"")
        return 1 + sum(block.count(b"\n") for block in blocks)


def read_rows(span: Span, fields: list[str]) -> Iterator[tuple[int, Any]]:
    """Read the rows of a span.

    Args:
        span: of an input.
        fields: names of the columns to read from .parquet; the first one is that of the text.

    Returns:
        Iterator of the number of a row, from 1, and its content: the bytes of a JSON line, a mapping, or the
        ValueError of a malformed row.
    """
    if span.item.startswith(HUB_PREFIX):
        return _hub_rows(span)
    if os.path.isdir(span.item):
        return _saved_rows(span)
    if span.item.endswith(".parquet"):
        return _parquet_rows(span, fields)
    if span.item.endswith(TABLES):
        return _csv_rows(span.item)
    if span.item.endswith(".txt"):
        return _whole_file(span.item, fields[0])
    return _json_lines(span)


def _json_lines(span: Span) -> Iterator[tuple[int, bytes]]:
    """Read the lines that begin within the span."""
    number = 0
    try:
        with _open(span.item) as file:
            if span.first:
                file.seek(span.first - 1)
                file.readline()  # the line of the preceding byte belongs to the preceding span
            position = file.tell() if span.last is not None else 0
            for number, line in enumerate(file, 1):
                if span.last is not None and position >= span.last:
                    return
                position += len(line)
                if not line.isspace():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableFile(
            f"{place_of(span, number + 1)}: cannot be read ({error}); restore the file"
        ) from error


def _open(path: str) -> BinaryIO:
    if path.endswith(".gz"):
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.endswith(".zst"):
        # not the zstandard package: its reader accepts a truncated file as complete
        return io.BufferedReader(pyarrow.input_stream(path, compression="zstd"))
    return open(path, "rb")


def _whole_file(path: str, text_field: str) -> Iterator[tuple[int, Any]]:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UnreadableFile(f"{path}: cannot be read ({error}); restore the file") from error
    try:
        yield 1, {text_field: data.decode("utf-8")}
    except UnicodeDecodeError as error:
        yield 1, error


def _csv_rows(path: str) -> Iterator[tuple[int, Any]]:
    """Read a table whose first row names the columns; quoted fields may hold line feeds."""
    csv.field_size_limit(sys.maxsize)
    number = 0
    try:
        with io.TextIOWrapper(_open(path), encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, strict=True)
            header = next(rows, [])
            for number, row in enumerate(rows, 1):
                if len(row) == len(header):
                    yield number, dict(zip(header, row, strict=True))
                elif row:  # an empty line is not a row
                    yield (
                        number,
                        ValueError(
                            f"has {len(row)} fields, but the header has {len(header)}; repair the row"
                        ),
                    )
    except (OSError, EOFError, zlib.error, csv.Error, UnicodeDecodeError) as error:
        raise UnreadableFile(
            f"{path}: cannot be read after row {number} ({error}); restore the file"
        ) from error


def _parquet_rows(span: Span, fields: list[str]) -> Iterator[tuple[int, Any]]:
    row = 0
    try:
        with pyarrow.parquet.ParquetFile(span.item) as file:
            groups = range(file.num_row_groups)[span.first : span.last]
            row = sum(file.metadata.row_group(group).num_rows for group in range(span.first))
            names = file.schema_arrow.names
            missing = [name for name in fields if name not in names]
            if missing:
                option = "--text-field" if missing[0] == fields[0] else "--where"
                raise UnreadableFile(
                    f"{span.item}: has no column {missing[0]!r}; columns: {', '.join(names)}; choose with {option}"
                )
            columns = list(dict.fromkeys(fields))
            for batch in file.iter_batches(PARQUET_ROWS, row_groups=list(groups), columns=columns):
                for index in range(batch.num_rows):
                    row += 1
                    yield row, _parquet_row(batch, index)
    except (OSError, pyarrow.ArrowException) as error:
        raise UnreadableFile(
            f"{span.item}: cannot be read after row {row} ({error}); restore the file"
        ) from error


def _parquet_row(batch: pyarrow.RecordBatch, index: int) -> Any:
    try:
        return {name: batch.column(name)[index].as_py() for name in batch.schema.names}
    except UnicodeDecodeError as error:
        return error


def load_saved(path: str) -> Any:
    """Load a dataset that `datasets.save_to_disk` wrote.

    Returns:
        A `datasets.Dataset`.

    Raises:
        UnreadableFile: The folder is damaged.
    """
    import datasets  # takes seconds to import

    try:
        return datasets.load_from_disk(path)
    except Exception as error:  # a damaged folder raises anything from KeyError to ArrowInvalid
        raise UnreadableFile(f"{path}: cannot be loaded ({one_line(error)})") from error


def load_hub(item: str) -> Any:
    """Open hf:NAME[@REVISION][:CONFIG][:SPLIT] for streaming; the default split is "train".

    Returns:
        A `datasets.IterableDataset`.

    Raises:
        ValueError: A name of another form.
        UnreadableFile: The dataset, its config or its split cannot be loaded.
    """
    import datasets  # takes seconds to import

    name, *rest = item.removeprefix(HUB_PREFIX).split(":")
    name, _, revision = name.partition("@")
    if not name or len(rest) > 2:
        raise ValueError(
            f"input: {item!r} must be hf:NAME[@REVISION], optionally with :SPLIT or :CONFIG:SPLIT"
        )
    split = rest[-1] if rest else "train"
    config = rest[0] if len(rest) == 2 else None
    try:
        return datasets.load_dataset(name, config, split=split, streaming=True, revision=revision or None)
    except Exception as error:  # unknown names, splits and lost connections have no common type
        raise UnreadableFile(f"{item}: cannot be loaded ({one_line(error)})") from error


def _saved_rows(span: Span) -> Iterator[tuple[int, Any]]:
    rows = load_saved(span.item)
    last = len(rows) if span.last is None else span.last
    return _dataset_rows(rows.select(range(span.first, last)), span.item, span.first)


def _hub_rows(span: Span) -> Iterator[tuple[int, Any]]:
    rows = load_hub(span.item)
    if span.last is None:
        return _dataset_rows(rows, span.item, 0)
    # one file, as planned in parts.py; rows are numbered within it
    place = f"{span.item}, file {span.first}"
    return _dataset_rows(rows.shard(num_shards=rows.num_shards, index=span.first), place, 0)


def _dataset_rows(rows: Iterable[Any], place: str, number: int) -> Iterator[tuple[int, Any]]:
    iterator = iter(rows)
    while True:
        try:
            row = next(iterator, None)
        except Exception as error:  # a lost connection, a damaged file: no common type
            raise UnreadableFile(f"{place}: cannot be read after row {number} ({one_line(error)})") from error
        if row is None:
            return
        number += 1
        yield number, row
