"""Rows of tables: .csv, .tsv and .parquet."""

import csv
import io
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import pyarrow
import pyarrow.parquet

from data_prep.inputs.fields import check_unique, listed
from data_prep.inputs.formats import kind_of
from data_prep.inputs.reading import Reading
from data_prep.inputs.rows import MAX_ROW_BYTES, TOO_LONG, Span, UnreadableFile, attempt
from data_prep.inputs.streams import limit_lines, open_utf8
from modernbert_train.common.text import one_line

DELIMITERS = (",", ";", "\t", "|")
BATCH_ROWS = 1_000
BATCH_BYTES = 16 << 20  # of a row group, as its metadata says
BUFFER_BYTES = 1 << 20


def csv_rows(span: Span, reading: Reading) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a table whose first row names the columns; quoted fields may hold line feeds."""
    path = span.item
    kind = kind_of(path)
    default = "\t" if kind is not None and kind.format == "tsv" else ","
    delimiter = default if reading.delimiter is None else reading.delimiter
    csv.field_size_limit(MAX_ROW_BYTES)
    # surrogateescape: invalid UTF-8 concerns its row, if it is in a field that is read
    stream = limit_lines(open_utf8(path, reading.encoding), MAX_ROW_BYTES, f"a line {TOO_LONG}")
    with io.TextIOWrapper(stream, "utf-8", errors="surrogateescape", newline="") as file:
        first = file.readline()
        if not first:
            return
        # many lines at once: a quoted text may have many short ones
        lines = chain.from_iterable(iter(lambda: file.readlines(BUFFER_BYTES), []))
        rows = csv.reader(chain([first], lines), delimiter=delimiter, strict=True)
        header = _header(path, rows, first, delimiter, reading)
        number = 0
        while True:
            number += 1
            try:
                row = next(rows, None)
            except csv.Error as error:
                if "expected after" not in str(error):  # the reader is lost inside a quoted field
                    raise ValueError(f"{error}; is a quotation mark missing?") from error
                yield number, ValueError(f"{one_line(error)}; repair the row")
                continue
            if row is None:
                return
            if len(row) == len(header):
                yield number, dict(zip(header, row, strict=True))
            elif row:  # an empty line is not a row
                yield (
                    number,
                    ValueError(f"has {len(row)} fields, but the header has {len(header)}; repair the row"),
                )


def _header(path: str, rows: Iterator[list[str]], first: str, delimiter: str, reading: Reading) -> list[str]:
    """Read the header and check that it has the fields to read, once each.

    Returns:
        The names of the columns.

    Raises:
        UnreadableFile: It has not; the message guesses the delimiter if there is only one column.
    """
    hint = ""
    counts = {other: first.count(other) for other in DELIMITERS if other != delimiter}
    other = max(counts, key=lambda other: counts[other])
    if counts[other]:
        hint = f"; it looks separated by {other!r}: pass --delimiter {other!r}"
    try:
        header = next(rows, [])
    except csv.Error as error:
        raise UnreadableFile(f"{path}: the header cannot be read ({one_line(error)}){hint}") from error
    problem = attempt(check_unique, [name for name in header if name], "columns")
    if problem is not None:
        raise UnreadableFile(f"{path}: {problem}")
    missing = [name for name in reading.fields if name not in header]
    if missing:
        option = "--text-field" if missing[0] == reading.text_field else "--where"
        remedy = hint if len(header) == 1 and hint else f"; choose with {option}"
        raise UnreadableFile(f"{path}: has no column {missing[0]!r}; columns: {listed(header)}{remedy}")
    return header


def parquet_rows(span: Span, reading: Reading) -> Iterator[tuple[int, Any]]:
    """Yield the rows of row groups, with the columns that hold the fields to read."""
    with pyarrow.parquet.ParquetFile(
        span.item, buffer_size=BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
    ) as file:
        _check_columns(span.item, file.schema_arrow, reading)
        metadata = file.metadata
        row = sum(metadata.row_group(group).num_rows for group in range(span.first))
        for group in range(file.num_row_groups)[span.first : span.last]:
            about = metadata.row_group(group)
            row_bytes = about.total_byte_size // max(about.num_rows, 1) + 1
            num_rows = max(1, min(BATCH_ROWS, BATCH_BYTES // row_bytes))
            for batch in file.iter_batches(num_rows, [group], list(dict.fromkeys(reading.fields))):
                for record in _records(batch):
                    row += 1
                    yield row, record


def _records(batch: pyarrow.RecordBatch) -> Iterator[Any]:
    columns = attempt(lambda: [column.to_pylist() for column in batch.columns])
    names = batch.schema.names
    if isinstance(columns, list):
        for values in zip(*columns, strict=True):
            yield dict(zip(names, values, strict=True))
        return
    for row in range(batch.num_rows):  # a value is invalid: find out which one
        yield attempt(lambda row=row: {name: batch.column(name)[row].as_py() for name in names})


def _check_columns(path: str, schema: pyarrow.Schema, reading: Reading) -> None:
    try:
        check_unique(schema.names, "columns")
        for name in reading.fields:
            if not _has_field(list(schema), name):
                option = "--text-field" if name == reading.text_field else "--where"
                raise ValueError(
                    f"has no column {name!r}; columns: {listed(_names(schema))}; choose with {option}"
                )
    except ValueError as error:
        raise UnreadableFile(f"{path}: {error}") from error


def _has_field(fields: Sequence[pyarrow.Field], name: str) -> bool:
    """Check whether a field of this name is among some, or inside a struct of them, as `find_field` looks for it."""
    by_name = {field.name: field.type for field in fields}
    if name in by_name:
        return True
    parts = name.split(".")
    for length in range(1, len(parts)):
        inner = by_name.get(".".join(parts[:length]))
        if inner is not None and pyarrow.types.is_struct(inner):
            check_unique([field.name for field in inner], "fields")
            return _has_field(list(inner), ".".join(parts[length:]))
    return False


def _names(fields: Sequence[pyarrow.Field]) -> list[str]:
    names = []
    for field in fields:
        names.append(field.name)
        if pyarrow.types.is_struct(field.type):
            names += [f"{field.name}.{inner}" for inner in _names(list(field.type))]
    return names
