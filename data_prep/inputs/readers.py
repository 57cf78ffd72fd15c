"""Rows -> texts. Texts are never altered.

What cannot be used is an error with file and line, or is counted, by reason, and left out.
"""

import reprlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from data_prep.inputs.fields import NoField, as_record, describe, find_field, listed
from data_prep.inputs.long_text import LongText, Text
from data_prep.inputs.reading import Reading
from data_prep.inputs.rows import Place, Span, UnreadableDocument, UnreadableFile, read_rows
from data_prep.inputs.streams import decode
from modernbert_train.common.text import one_line

MAX_REPORTED_DOCUMENTS = 20  # unreadable documents reported per part; all are counted, and all files reported
SKIP, STOP = "skip", "stop"  # values of --on-bad-row


@dataclass
class LeftOut:
    """The documents that are left out, by reason."""

    on_bad_row: str | None = None  # SKIP, STOP, or None: skip null and empty texts, stop at what is malformed
    counts: Counter[str] = field(default_factory=Counter)  # reason -> number of documents (or files)
    unreadable: list[str] = field(default_factory=list)  # error messages
    place: Place = field(default_factory=lambda: Place(Span(""), 0, Reading()))  # of the text read last

    def skip(self, error: ValueError, reason: str) -> None:
        """Count and report what cannot be read, or raise the error.

        Raises:
            ValueError: Unless bad rows are skipped.
        """
        if self.on_bad_row != SKIP:
            raise error
        self.counts[reason] += 1
        if isinstance(error, UnreadableFile) or self.counts[reason] <= MAX_REPORTED_DOCUMENTS:
            self.unreadable.append(str(error))


def read_texts(span: Span, reading: Reading | None = None, left_out: LeftOut | None = None) -> Iterator[Text]:
    """Read the texts of a span.

    Args:
        span: of an input.
        reading: how to read it.
        left_out: counts what is not yielded, and says what happens to rows that cannot be used.

    Yields:
        Texts in the order of the input; none is empty.

    Raises:
        ValueError: Broken JSON, a missing, repeated or mistyped field, invalid UTF-8, damaged compression or a dataset
            that cannot be loaded, with file and line or row, unless `left_out` skips it.
    """
    reading = reading or Reading()
    left_out = left_out or LeftOut()
    try:
        for number, row in read_rows(span, reading):
            try:
                text = _text_of(row, reading, left_out)
            except Exception as error:  # whatever it is, it concerns one row
                bad = UnreadableDocument(f"{Place(span, number, reading)}: {one_line(error)}")
                left_out.skip(bad, "unreadable_documents")
                continue
            if text is not None:
                left_out.place = Place(span, number, reading)
                yield text
    except UnreadableFile as error:
        left_out.skip(error, "unreadable_files")


def _text_of(row: Any, reading: Reading, left_out: LeftOut) -> Text | None:
    """Return the text of a row, None if it is left out."""
    if isinstance(row, Exception):
        raise row
    name = reading.text_field
    record = as_record(row)
    if record is None:
        raise ValueError(f"must be an object with a field {name!r}, is a {type(row).__name__}")
    if reading.conditions and not all(condition.holds(record) for condition in reading.conditions):
        left_out.counts["filtered"] += 1
        return None
    try:
        text = find_field(record, name)
    except NoField as error:
        raise ValueError(f"{error}; fields: {listed(record)}; choose one with --text-field") from None
    if isinstance(text, bytes):  # parquet files of some programs do not say that their columns are text
        text = decode(text)
    if not text and (text is None or isinstance(text, str)):
        reason = "null" if text is None else "empty"
        if left_out.on_bad_row == STOP:
            raise ValueError(
                f"field {name!r} is {reason}; remove the row, or leave it out with --on-bad-row skip"
            )
        left_out.counts[reason] += 1
        return None
    if isinstance(text, LongText):
        return text
    if not isinstance(text, str):
        raise ValueError(f"field {name!r} must be a string, is {describe(text, name)}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # "\ud800" is valid JSON, but not valid text
        raise ValueError(
            f"field {name!r} holds a byte that is not UTF-8, or a lone surrogate ({reprlib.repr(text[error.start])}, "
            f"character {error.start}); repair or remove the row, or name the encoding with --encoding"
        ) from None
    return text
