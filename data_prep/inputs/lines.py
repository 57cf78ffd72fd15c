"""The lines of a span of a file.

Only a line feed ends a line: `str.splitlines` would also split at U+2028, which JSON does not escape.
"""

from collections.abc import Iterator
from typing import BinaryIO

from data_prep.inputs.rows import MAX_ROW_BYTES, TOO_LONG, Span
from data_prep.inputs.streams import open_utf8


def read_lines(span: Span, encoding: str) -> Iterator[tuple[int, bytes | ValueError]]:
    """Read the lines that begin within a span and are not blank.

    Args:
        span: of a file; a range of bytes if the file is plain UTF-8.
        encoding: of a file without a byte order mark.

    Yields:
        The number of a line within the span, from 1, and the line; a ValueError in place of one that is too long.
    """
    with open_utf8(span.item, encoding) as file:
        if span.first:
            file.seek(span.first - 1)
            _rest_of_line(file)  # the line of the preceding byte belongs to the preceding span
        position = file.tell() if span.last is not None else 0
        for number, line in enumerate(iter(lambda: file.readline(MAX_ROW_BYTES), b""), 1):
            if span.last is not None and position >= span.last and (span.first or number > 1):
                return  # the first line of the file is behind its byte order mark
            position += len(line)
            if len(line) == MAX_ROW_BYTES and not line.endswith(b"\n"):
                position += _rest_of_line(file)
                yield number, ValueError(TOO_LONG)
            elif not line.isspace():
                yield number, line


def _rest_of_line(file: BinaryIO) -> int:
    """Read up to the end of the line; return the number of bytes."""
    num_bytes = 0
    while rest := file.readline(MAX_ROW_BYTES):
        num_bytes += len(rest)
        if rest.endswith(b"\n"):
            break
    return num_bytes
