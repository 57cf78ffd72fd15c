"""Documents of .txt files: the file, its lines, or what stands between blank lines or separators."""

from collections.abc import Iterator
from typing import Any

from data_prep.inputs.lines import read_lines
from data_prep.inputs.long_text import read_text
from data_prep.inputs.reading import BLANK_LINE, LINE, WHOLE_FILE, Reading
from data_prep.inputs.rows import MAX_ROW_BYTES, TOO_LONG, Span, attempt
from data_prep.inputs.streams import decode, open_utf8

CHUNK_BYTES = 1 << 20


def text_rows(span: Span, reading: Reading) -> Iterator[tuple[int, Any]]:
    """Yield the documents of a .txt file as records with a single field."""
    name = reading.text_field
    if reading.documents is None or reading.documents == WHOLE_FILE:
        yield 1, {name: read_text(span.item, reading.encoding)}
        return
    if reading.documents == LINE:
        documents = read_lines(span, reading.encoding)
    elif reading.documents == BLANK_LINE:
        documents = _numbered(_between_blank_lines(span, reading))
    else:
        documents = _numbered(_between_separators(span, reading.documents, reading.encoding))
    for number, document in documents:
        if isinstance(document, bytes):
            text = attempt(decode, document.strip(b"\r\n"))
            yield number, text if isinstance(text, Exception) else {name: text}
        else:
            yield number, document


def _numbered(documents: Iterator[bytes | ValueError]) -> Iterator[tuple[int, bytes | ValueError]]:
    """Return the documents that are not blank, with numbers."""
    return enumerate((d for d in documents if isinstance(d, ValueError) or d.strip()), 1)


def _between_blank_lines(span: Span, reading: Reading) -> Iterator[bytes | ValueError]:
    lines: list[bytes] = []
    num_bytes = last = 0
    for number, line in read_lines(span, reading.encoding):
        if number > last + 1 and num_bytes:  # blank lines have numbers, but are not read
            yield b"".join(lines) if lines else ValueError(TOO_LONG)
            lines, num_bytes = [], 0
        last = number
        length = len(line) if isinstance(line, bytes) else MAX_ROW_BYTES
        is_too_long = num_bytes + length > MAX_ROW_BYTES
        num_bytes += length
        if is_too_long or isinstance(line, ValueError):
            lines = []
        else:
            lines.append(line)
    if num_bytes:
        yield b"".join(lines) if lines else ValueError(TOO_LONG)


def _between_separators(span: Span, text: str, encoding: str) -> Iterator[bytes | ValueError]:
    separator = text.encode("utf-8")
    rest = b""
    is_too_long = False  # the beginning of the document was dropped
    with open_utf8(span.item, encoding) as file:
        while chunk := file.read(CHUNK_BYTES):
            *documents, rest = (rest + chunk).split(separator)
            for document in documents:
                yield ValueError(TOO_LONG) if is_too_long else document
                is_too_long = False
            if len(rest) > MAX_ROW_BYTES:
                rest, is_too_long = rest[-len(separator) :], True
    yield ValueError(TOO_LONG) if is_too_long else rest
