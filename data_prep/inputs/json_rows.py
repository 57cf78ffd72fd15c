"""Rows of JSON: a value on each line (.jsonl, .ndjson), or an array or a sequence of values (.json)."""

import io
import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from data_prep.inputs.fields import decode_json, decode_json_at
from data_prep.inputs.lines import read_lines
from data_prep.inputs.reading import Reading
from data_prep.inputs.rows import MAX_ROW_BYTES, TOO_LONG, Span, attempt
from data_prep.inputs.streams import decode, encoding_hint, open_utf8

CHUNK_CHARACTERS = 1 << 16
_SPACE = re.compile(r"[ \t\r\n]*")


def line_rows(span: Span, reading: Reading) -> Iterator[tuple[int, Any]]:
    """Yield the value on each line of a span."""
    for number, line in read_lines(span, reading.encoding):
        yield number, attempt(_parse, line) if isinstance(line, bytes) else line


def _parse(line: bytes) -> Any:
    text = decode(line)
    try:
        return decode_json(text)
    except json.JSONDecodeError as error:
        remedy = "repair or remove the line"
        if b"\0" in line:
            remedy = encoding_hint(line)
        elif text.strip() in {"[", "{", "[{"}:
            remedy = "if a value goes over several lines, name the file .json"
        raise ValueError(f"broken JSON ({error.msg}, column {error.colno}); {remedy}") from None
    except RecursionError:
        raise ValueError("broken JSON (nested too deeply); repair or remove the line") from None


def json_rows(span: Span, reading: Reading) -> Iterator[tuple[int, Any]]:
    """Yield the values of a .json file, which may hold lines of JSON, an array, or values over several lines."""
    if _has_a_value_on_each_line(span, reading):
        yield from line_rows(span, reading)
    else:
        yield from _values(span, reading)


def _has_a_value_on_each_line(span: Span, reading: Reading) -> bool:
    """Check whether one of the first two lines is an object. Both are looked at because one may be broken."""
    lines = [line for _, line in islice(read_lines(span, reading.encoding), 2)]
    if isinstance(lines[0], bytes) and lines[0].lstrip().startswith(b"[") if lines else False:
        return False
    return any(isinstance(line, bytes) and isinstance(attempt(_parse, line), tuple) for line in lines)


def _values(span: Span, reading: Reading) -> Iterator[tuple[int, Any]]:
    """Yield the elements of an array, or values one after the other, with at most MAX_ROW_BYTES in memory."""
    number = 0
    with io.TextIOWrapper(
        open_utf8(span.item, reading.encoding), "utf-8", errors="surrogateescape", newline=""
    ) as file:
        scanner = _Scanner(file)
        is_array = scanner.next_character() == "["
        if is_array:
            scanner.at += 1
        while (character := scanner.next_character()) and character != "]":
            if is_array and number:
                if character != ",":
                    raise ValueError(f"broken JSON: expected ',' or ']', found {character!r}")
                scanner.at += 1
                scanner.next_character()
            number += 1
            yield number, scanner.next_value()
        if is_array:
            if character != "]":
                raise ValueError("broken JSON: the array does not end")
            scanner.at += 1
            character = scanner.next_character()
        if character:
            raise ValueError(f"broken JSON: found {character!r} after the last value")


class _Scanner:
    """Finds values in a file, a chunk of which is in memory."""

    def __init__(self, file: io.TextIOWrapper) -> None:
        self.file = file
        self.text = ""
        self.at = 0
        self.is_end = False

    def _read_on(self) -> None:
        """Read at least as much as is left, so that a long value is parsed a few times only."""
        more = self.file.read(max(CHUNK_CHARACTERS, len(self.text) - self.at))
        self.is_end = not more
        self.text = self.text[self.at :] + more
        self.at = 0

    def next_character(self) -> str:
        """Move to the next character that is no space; return it, or "" at the end of the file."""
        while True:
            space = _SPACE.match(self.text, self.at)
            assert space is not None
            self.at = space.end()
            if self.at < len(self.text):
                return self.text[self.at]
            if self.is_end:
                return ""
            self._read_on()

    def next_value(self) -> Any:
        """Parse the value here and move behind it."""
        while True:
            try:
                value, end = decode_json_at(self.text, self.at)
            except json.JSONDecodeError as error:
                if self.is_end:
                    raise ValueError(f"broken JSON: {error.msg}") from None
                if len(self.text) - self.at > MAX_ROW_BYTES:
                    raise ValueError(f"broken JSON: {error.msg}, or the value {TOO_LONG}") from None
            else:
                if end < len(self.text) or self.is_end:  # at the end of the chunk, a number might go on
                    self.at = end
                    return value
            self._read_on()
