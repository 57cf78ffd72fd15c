"""Rows -> texts. Texts are never altered.

What cannot be read is an error that names file and line, never a shorter corpus, unless it is asked to be left
out: then it is named and counted.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_prep.inputs.filters import Condition
from data_prep.inputs.rows import Span, UnreadableDocument, UnreadableFile, place_of, read_rows

NAMED_DOCUMENTS = 20  # unreadable ones that a part names; it counts all, and names all files


@dataclass
class LeftOut:
    """What did not become a document. With `skip_unreadable` what cannot be read counts as such."""

    skip_unreadable: bool = False
    counts: Counter[str] = field(default_factory=Counter)  # reason -> documents (or files)
    unreadable: list[str] = field(default_factory=list)  # messages


def read_texts(
    span: Span, text_field: str, conditions: Sequence[Condition] = (), left_out: LeftOut | None = None
) -> Iterator[str]:
    """Texts of a piece of an input; in .txt, where a file is a document, there are no fields.

    ValueError, with file and line or row: broken JSON, a field that is missing or of a wrong kind, invalid
    UTF-8, damaged compression, a dataset that cannot be loaded.
    """
    left_out = left_out or LeftOut()
    try:
        for number, row in read_rows(span, [text_field, *(condition.field for condition in conditions)]):
            try:
                text = _text_of(span, number, row, text_field, conditions)
            except UnreadableDocument as error:
                _skip(error, "unreadable_documents", left_out)
                continue
            if text is None:
                left_out.counts["filtered"] += 1
            else:
                yield text
    except UnreadableFile as error:
        _skip(error, "unreadable_files", left_out)


def _skip(error: ValueError, reason: str, left_out: LeftOut) -> None:
    if not left_out.skip_unreadable:
        raise error
    left_out.counts[reason] += 1
    if isinstance(error, UnreadableFile) or left_out.counts[reason] <= NAMED_DOCUMENTS:
        left_out.unreadable.append(str(error))


def _text_of(
    span: Span, number: int, row: Any, text_field: str, conditions: Sequence[Condition]
) -> str | None:
    """The text, or None if it does not meet the conditions."""
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
            raise ValueError(f"has no field {text_field!r}; fields: {fields}; choose with --text-field")
        text = record[text_field]
        if not isinstance(text, str):
            raise ValueError(f"field {text_field!r} must be a string, is {type(text).__name__}")
        text.encode("utf-8")
    except json.JSONDecodeError as error:
        problem = f"broken JSON ({error.msg}, column {error.colno}); repair or remove the line"
    except UnicodeDecodeError as error:
        problem = f"invalid UTF-8 ({error.reason}, byte {error.start}); convert it first"
    except UnicodeEncodeError as error:  # "\ud800" is valid JSON, but no text
        problem = (
            f"field {text_field!r} holds a lone surrogate (character {error.start}), "
            "which is no text; repair or remove the line"
        )
    except ValueError as error:
        problem = str(error)
    else:
        return text
    raise UnreadableDocument(f"{place_of(span, number)}: {problem}")
