"""A first look at the inputs of a source, before any text is used: what is read, and what looks like a mistake."""

import fnmatch
import glob
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from data_prep.inputs.fields import as_record, find_field
from data_prep.inputs.files import Found
from data_prep.inputs.formats import kind_of
from data_prep.inputs.readers import SKIP
from data_prep.inputs.reading import Reading
from data_prep.inputs.rows import Span, attempt, read_rows
from data_prep.inputs.streams import open_utf8

TABLES = ("csv", "tsv", "parquet")
WITH_FIELDS = (*TABLES, "jsonl", "json")
SAMPLED_FILES = 20
SAMPLED_BYTES = 1 << 20  # of each file
SAMPLED_ROWS = 100
# Another field is probably the text if it has so many characters on average, so many times as many as the one read.
LONG_FIELD_CHARACTERS, LONGER_FIELD = 200, 5
# Mean of .txt files that probably hold a document per line
MANY_CHARACTERS, MANY_LINES = 20_000, 100


def look_at(source: str, found: Found, reading: Reading, on_bad_row: str | None) -> list[str]:
    """Print what is read of a source and warn of likely mistakes, and check the columns of its first table.

    Returns:
        The warnings, which are printed.

    Raises:
        UnreadableFile: The table has not the columns to read, unless unreadable files are skipped.
    """
    text_files = [item for item in found.items if _format_of(item) == "txt"]
    forgotten = bool(text_files) and reading.documents is None
    each = ", each read as one document (one per line: --documents line)" if forgotten else ""
    print(f"{source}: {found.describe(each)}", file=sys.stderr)
    warnings: list[Any] = [companion_warning(companion, found.items) for companion in found.companions]
    if forgotten:
        warnings.append(many_lines_warning(text_files, reading.encoding))
    table = next((item for item in found.items if _format_of(item) in TABLES), None)
    if table is not None and on_bad_row != SKIP:
        next(read_rows(Span(table), reading), None)  # reads the header first
    with_fields = next((item for item in found.items if _format_of(item) in WITH_FIELDS), None)
    if with_fields is not None:
        warnings.append(attempt(longer_field_warning, with_fields, reading))
    # What cannot be read is reported when it is.
    texts = [f"{source}: {warning}" for warning in warnings if isinstance(warning, str)]
    for text in texts:
        print(f"warning: {text}", file=sys.stderr)
    return texts


def longer_field_warning(item: str, reading: Reading) -> str | None:
    """Return a warning if another field of the first rows is so much longer that it is probably the text."""
    rows = _first_records(item, reading)
    characters: Counter[str] = Counter()
    for row in rows:
        characters.update({name: len(value) for name, value in row.items() if isinstance(value, str)})
    read = sum(len(text) for row in rows if isinstance(text := find_field(row, reading.text_field), str))
    longest, most = max(characters.items(), key=lambda field: field[1], default=("", 0))
    if most < LONG_FIELD_CHARACTERS * len(rows) or most <= LONGER_FIELD * read:
        return None
    return (
        f"the text is read from {reading.text_field!r}, with {read / len(rows):,.0f} characters on average in the "
        f"first {len(rows)} rows; {longest!r} has {most / len(rows):,.0f}: if that is the text, pass --text-field "
        f"{longest}"
    )


def _first_records(item: str, reading: Reading) -> list[Mapping[str, Any]]:
    rows: list[Any]
    if _format_of(item) == "parquet":  # a reader reads only the fields that it needs
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(item) as file:
            rows = next((batch.to_pylist() for batch in file.iter_batches(SAMPLED_ROWS)), [])
    else:
        rows = [row for _, row in islice(read_rows(Span(item), reading), SAMPLED_ROWS)]
    return [record for row in rows if (record := as_record(row)) is not None]


def many_lines_warning(files: Sequence[str], encoding: str) -> str | None:
    """Return a warning if the .txt files are so long, in so many lines, that each line may be a document."""
    samples = [
        text
        for file in files[:SAMPLED_FILES]
        if os.path.isfile(file) and isinstance(text := attempt(_first_text, file, encoding), str)
    ]
    num_characters = sum(map(len, samples)) / max(1, len(samples))
    num_lines = sum(len(text.splitlines()) for text in samples) / max(1, len(samples))
    if num_characters <= MANY_CHARACTERS or num_lines <= MANY_LINES:
        return None
    return (
        f"the .txt files have about {num_lines:,.0f} lines each or more, and each file is read as one document; if "
        "every line is a document, pass --documents line, otherwise --documents file"
    )


def _first_text(file: str, encoding: str) -> str:
    with open_utf8(file, encoding) as stream:
        return stream.read(SAMPLED_BYTES).decode("utf-8", "replace")


def companion_warning(companion: str, items: Sequence[str]) -> str:
    """Say that a file such as README.txt is read as text, and which pattern leaves it out, if a simple one does."""
    folder, name = os.path.split(companion)
    below = os.path.join(folder, "")
    others = [
        item for item in items if item != companion and item.startswith(below) and _format_of(item) == "txt"
    ]
    names = [os.path.basename(other) for other in others]
    endings = {other[-len(kind.ending) :] for other in others if (kind := kind_of(other))}
    ending = endings.pop() if len(endings) == 1 else ""
    start = os.path.commonprefix([other.removesuffix(ending) for other in names])  # noqa: RUF071 - of characters
    pattern = f"{glob.escape(start)}*{ending}"
    remedy = "if it is no document, move it to another folder"
    if others and not fnmatch.fnmatchcase(name, pattern):
        deep = "**" if any(os.path.dirname(other) != folder for other in others) else ""
        remedy = f"leave it out with '{os.path.join(glob.escape(folder), deep, pattern)}'"
    return f"{name} is read as text; {remedy}"


def _format_of(item: str) -> str | None:
    kind = kind_of(item)
    return None if kind is None else kind.format
