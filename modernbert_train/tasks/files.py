"""Files of rows: JSONL, TSV, CSV and parquet."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal

from modernbert_train.common.text import one_line, shorten

# Ending of a file, before .gz or .zst -> its format.
FORMATS = (".jsonl", ".json", ".tsv", ".csv", ".parquet")
_MOST_BYTES_OF_A_CELL = 1 << 30


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Read the rows of a file as mappings from column to value.

    Args:
        path: A file named *.jsonl, *.json (a row a line), *.tsv, *.csv (each also .gz or .zst) or *.parquet.

    Yields:
        The rows in order.

    Raises:
        ValueError: There is no such file, its name has another ending, or it is damaged.
    """
    kind = next((end for end in FORMATS if end in (path.suffix, path.with_suffix("").suffix)), None)
    if kind is None or (path.suffix != kind and path.suffix not in (".gz", ".zst")):
        raise ValueError(f"{path}: the name of a file of rows ends in {', '.join(FORMATS)}, .jsonl.gz, ...")
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file; set files of the task, or folder=PATH, their root")
    try:
        yield from _READERS[kind](path)
    except (OSError, ValueError, EOFError, csv.Error, _pyarrow_error(), _zstd_error()) as error:
        raise ValueError(f"{path} cannot be read: {one_line(error):.300}") from None


def _pyarrow_error() -> type[Exception]:
    import pyarrow

    return pyarrow.ArrowException


def _zstd_error() -> type[Exception]:
    import zstandard

    return zstandard.ZstdError


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    if path.suffix == ".zst":
        import zstandard

        return io.TextIOWrapper(zstandard.open(path, "rb"), encoding="utf-8", newline="")
    return open(path, encoding="utf-8", newline="")


def _read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is {shorten(row)}, expected a JSON object with a row")
            yield row


def _read_table(delimiter: str, quoting: Literal[0, 3]) -> Callable[[Path], Iterator[dict[str, Any]]]:
    def read(path: Path) -> Iterator[dict[str, Any]]:
        csv.field_size_limit(_MOST_BYTES_OF_A_CELL)
        with _open(path) as file:
            reader = csv.DictReader(file, delimiter=delimiter, quoting=quoting, strict=True)
            for row in reader:
                if None in row or None in row.values():
                    columns = len(reader.fieldnames or [])
                    raise ValueError(
                        f"line {reader.line_num} has not as many cells as there are columns, {columns}"
                    )
                yield row

    return read


def _read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield from batch.to_pylist()


_READERS: dict[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_jsonl,
    # As GLUE's files: quotes are text.
    ".tsv": _read_table("\t", csv.QUOTE_NONE),
    ".csv": _read_table(",", csv.QUOTE_MINIMAL),
    ".parquet": _read_parquet,
}
