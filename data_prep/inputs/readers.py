"""Rows -> texts. Texts are never altered.

Anything unreadable is an error with file and line. With `--skip-unreadable` it is reported, counted and left out.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_prep.inputs.conditions import Condition
from data_prep.inputs.rows import Span, UnreadableDocument, UnreadableFile, place_of, read_rows

MAX_REPORTED_DOCUMENTS = 20  # unreadable documents reported per part; all are counted, and all files reported


@dataclass
class LeftOut:
    """The documents that are left out, by reason. Without `skip_unreadable`, unreadable ones raise instead."""

    skip_unreadable: bool = False
    counts: Counter[str] = field(default_factory=Counter)  # reason -> number of documents (or files)
    unreadable: list[str] = field(default_factory=list)  # error messages
    place: tuple[Span, int] = (Span(""), 0)  # of the text that was read last, for `place_of`

    def skip(self, error: ValueError, reason: str) -> None:
        """Count and report what cannot be used, or raise the error."""
        if not self.skip_unreadable:
            raise error
        self.counts[reason] += 1
        if isinstance(error, UnreadableFile) or self.counts[reason] <= MAX_REPORTED_DOCUMENTS:
            self.unreadable.append(str(error))


def read_texts(
    span: Span, text_field: str, conditions: Sequence[Condition] = (), left_out: LeftOut | None = None
) -> Iterator[str]:
    """Read the texts of a span. A .txt file is one document and has no fields.

    Args:
        span: of an input.
        text_field: name of the field that holds the text.
        conditions: that a document must meet.
        left_out: counts what is not yielded.

    Yields:
        Texts in the order of the input.

    Raises:
        ValueError: Broken JSON, a missing or mistyped field, invalid UTF-8, damaged compression or a dataset that
            cannot be loaded, with file and line or row, unless `left_out` skips what is unreadable.
    """
    left_out = left_out or LeftOut()
    try:
        for number, row in read_rows(span, [text_field, *(condition.field for condition in conditions)]):
            try:
                text = _text_of(span, number, row, text_field, conditions)
            except UnreadableDocument as error:
                left_out.skip(error, "unreadable_documents")
                continue
            if text is None:
                left_out.counts["filtered"] += 1
            else:
                left_out.place = span, number
                yield text
    except UnreadableFile as error:
        left_out.skip(error, "unreadable_files")


def _text_of(
    span: Span, number: int, row: Any, text_field: str, conditions: Sequence[Condition]
) -> str | None:
    """Return the text of a row, None if it does not meet the conditions."""
    try:
        record = json.loads(row.decode("utf-8").removeprefix("\ufeff")) if isinstance(row, bytes) else row
        if isinstance(record, ValueError):
            raise record
        if not isinstance(record, Mapping):
            kind = type(record).__name__
            raise ValueError(f"must be an object with a field {text_field!r}, is a {kind}")
        if not all(condition.holds(record) for condition in conditions):
            return None
        if text_field not in record:
            fields = ", ".join(map(str, record)) or "none"
            raise ValueError(f"has no field {text_field!r}; fields: {fields}; choose one with --text-field")
        text = record[text_field]
        if not isinstance(text, str):
            raise ValueError(f"field {text_field!r} must be a string, is {type(text).__name__}")
        text.encode("utf-8")
    except json.JSONDecodeError as error:
        problem = f"broken JSON ({error.msg}, column {error.colno}); repair or remove the line"
    except UnicodeDecodeError as error:
        problem = f"invalid UTF-8 ({error.reason}, byte {error.start}); convert it first"
    except UnicodeEncodeError as error:  # "\ud800" is valid JSON, but not valid text
        problem = (
            f"field {text_field!r} holds a lone surrogate (character {error.start}), "
            "which is not valid text; repair or remove the line"
        )
    except ValueError as error:
        problem = str(error)
    else:
        return text
    raise UnreadableDocument(f"{place_of(span, number)}: {problem}")
