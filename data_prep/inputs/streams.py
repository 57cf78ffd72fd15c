"""Files -> streams of UTF-8: decompressed, without a byte order mark, converted from other encodings.

A stream that ends too early or goes on with garbage is an error. The decompressors of the standard library and of
zstandard are therefore driven here: bz2.open and lzma.open ignore what follows the first stream if it is damaged, and
the reader of zstandard accepts a truncated file as complete.
"""

import bz2
import codecs
import io
import lzma
import re
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import zstandard

from data_prep.inputs.formats import kind_of

CHUNK_BYTES = 1 << 16
COMPRESSED_BYTES = (
    1 << 12
)  # read at once: it may decompress to a multiple, of 128 KB for every 4 bytes of zstd
UTF8 = "utf-8"
_BYTE_ORDER_MARKS = (  # the mark of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF8, UTF8),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_MAGIC = ((b"\x1f\x8b", ".gz"), (b"BZh", ".bz2"), (b"\xfd7zXZ", ".xz"), (b"\x28\xb5\x2f\xfd", ".zst"))


class _Chunks(io.RawIOBase):
    """A raw stream over chunks of bytes. An error in the chunks is raised after everything before it was read."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks = chunks
        self.rest = memoryview(b"")
        self.error: Exception | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        filled = 0
        while filled < len(buffer):
            if self.rest:
                num_bytes = min(len(self.rest), len(buffer) - filled)
                buffer[filled : filled + num_bytes] = self.rest[:num_bytes]
                self.rest = self.rest[num_bytes:]
                filled += num_bytes
            elif self.error is not None:
                if not filled:
                    raise self.error
                break
            else:
                try:
                    self.rest = memoryview(next(self.chunks))
                except StopIteration:
                    break
                except Exception as error:
                    self.error = error
        return filled

    def close(self) -> None:
        self.chunks.close()  # type: ignore[attr-defined]
        super().close()


class _WholeChunks:
    """A decompressor without a limit of its output, with the interface of those of bz2 and lzma."""

    needs_input = True

    def __init__(self, decompressor: Any) -> None:
        self.decompressor = decompressor

    def decompress(self, data: bytes, max_length: int) -> bytes:
        del max_length
        return bytes(self.decompressor.decompress(data))

    @property
    def eof(self) -> bool:
        return bool(self.decompressor.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self.decompressor.unused_data)


def _new_decompressor(compression: str) -> Any:
    match compression:
        case ".gz":
            return _WholeChunks(zlib.decompressobj(wbits=16 + zlib.MAX_WBITS))
        case ".bz2":
            return bz2.BZ2Decompressor()
        case ".xz":
            return lzma.LZMADecompressor()
        case _:  # any window that zstd can write: --long=31
            return _WholeChunks(zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj())


def _decompressed(path: str, compression: str) -> Iterator[bytes]:
    """Yield the content of a file of any number of members, frames or streams, with zeros between them."""
    with open(path, "rb") as file:
        data = file.read(COMPRESSED_BYTES)
        while data:
            decompressor = _new_decompressor(compression)
            while True:
                yield decompressor.decompress(data, CHUNK_BYTES)
                if decompressor.eof:
                    break
                data = file.read(COMPRESSED_BYTES) if decompressor.needs_input else b""
                if decompressor.needs_input and not data:
                    raise EOFError("the compressed data ends too early")
            data = decompressor.unused_data.lstrip(b"\0")
            while not data and (more := file.read(COMPRESSED_BYTES)):
                data = more.lstrip(b"\0")


def _converted(stream: BinaryIO, encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    is_first = True
    with stream:
        while True:
            chunk = stream.read(CHUNK_BYTES)
            text = decoder.decode(chunk, final=not chunk)
            if text and is_first:
                text, is_first = text.removeprefix("\ufeff"), False
            yield text.encode(UTF8)
            if not chunk:
                return


def _encoding_by_mark(start: bytes, encoding: str) -> tuple[str, int]:
    """Return the encoding that a byte order mark names, and the length of the mark if it is to be skipped."""
    for mark, marked in _BYTE_ORDER_MARKS:
        if start.startswith(mark):
            return marked, len(mark) if marked == UTF8 else 0
    return encoding, 0


def open_utf8(path: str, encoding: str = UTF8) -> BinaryIO:
    """Open a file as a stream of UTF-8 without a byte order mark.

    Args:
        path: of the file; its ending says how it is compressed.
        encoding: of a file without a byte order mark.

    Returns:
        The stream. Only that of a plain UTF-8 file can seek.
    """
    kind = kind_of(path)
    stream: BinaryIO
    if kind is not None and kind.compression:
        stream = io.BufferedReader(_Chunks(_decompressed(path, kind.compression)), CHUNK_BYTES)
    else:
        stream = open(path, "rb")  # noqa: SIM115
    try:
        encoding, mark_bytes = _encoding_by_mark(stream.peek(4)[:4], encoding)
    except BaseException:
        stream.close()
        raise
    if encoding != UTF8:
        return io.BufferedReader(_Chunks(_converted(stream, encoding)), CHUNK_BYTES)
    stream.read(mark_bytes)
    return stream


def limit_lines(stream: BinaryIO, max_bytes: int, problem: str) -> BinaryIO:
    """Return a stream of the same bytes that raises a ValueError before a line of more than about `max_bytes`."""
    return io.BufferedReader(_Chunks(_limited(stream, max_bytes, problem)), CHUNK_BYTES)


def _limited(stream: BinaryIO, max_bytes: int, problem: str) -> Iterator[bytes]:
    num_bytes = 0  # since the last line break
    with stream:
        while chunk := stream.read(CHUNK_BYTES):
            after = len(chunk) - 1 - max(chunk.rfind(b"\n"), chunk.rfind(b"\r"))
            num_bytes = num_bytes + after if after == len(chunk) else after
            if num_bytes > max_bytes:
                raise ValueError(problem)
            yield chunk


def can_be_cut(path: str, encoding: str) -> bool:
    """Check whether a file is plain UTF-8, which can be read from the middle."""
    kind = kind_of(path)
    if kind is None or kind.compression:
        return False
    try:
        with open(path, "rb") as file:
            return _encoding_by_mark(file.read(4), encoding)[0] == UTF8
    except OSError:
        return False  # the reader reports the error


def checked_encoding(name: str) -> str:
    """Check the name of an encoding.

    Returns:
        The name, "utf-8" for any of its spellings.

    Raises:
        ValueError: Python knows no such encoding of text.
    """
    try:
        "".encode(name)
        normal = codecs.lookup(name).name
    except (LookupError, ValueError) as error:
        raise ValueError(
            f"encoding: {name!r} is unknown; use a name that Python knows, such as latin-1, cp1252, utf-16, "
            "shift_jis or gb18030"
        ) from error
    return UTF8 if normal in {UTF8, "utf-8-sig"} else name


class OtherEncoding(ValueError):
    """Bytes that are not UTF-8; the message says what they look like, and what to do."""


def decode(data: bytes) -> str:
    """Decode UTF-8.

    Returns:
        The text.

    Raises:
        OtherEncoding: The data is something else.
    """
    try:
        return data.decode(UTF8)
    except UnicodeDecodeError as error:
        raise OtherEncoding(
            f"invalid UTF-8 ({error.reason}, byte {error.start}); {encoding_hint(data)}"
        ) from None


def encoding_hint(data: bytes) -> str:
    """Say what some bytes that are not UTF-8 look like, and what to do."""
    for magic, ending in _MAGIC:
        if data.startswith(magic):
            return f"it looks compressed: add {ending} to the name of the file"
    if b"\0" in data:
        even, odd = data[::2].count(b"\0"), data[1::2].count(b"\0")
        name = "utf-16-be" if even > odd else "utf-16-le"
        return f"it looks like UTF-16: pass --encoding {name}"
    sample = data[:CHUNK_BYTES]
    high = re.findall(rb"[\x80-\xff]+", sample)
    is_sparse = sum(map(len, high)) * 3 <= len(sample) and all(len(run) <= 2 for run in high)
    if is_sparse and not re.search(rb"[\xc2-\xf4][\x80-\xbf]", sample):  # such a pair is UTF-8
        if re.search(rb"[\x80-\x9f]", sample) is None:
            return "it looks like Latin-1: pass --encoding latin-1"
        if re.search(rb"[\x81\x8d\x8f\x90\x9d]", sample) is None:
            return "it looks like Windows-1252: pass --encoding cp1252"
    return "name its encoding with --encoding, or repair it"
