"""Documents that are too long to be in memory at once."""

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from data_prep.inputs.streams import UTF8, OtherEncoding, encoding_hint, open_utf8

PIECE_BYTES = 1 << 20
LONG_CHARACTERS = 8 << 20  # a longer .txt file is read in pieces


@dataclass(frozen=True)
class LongText:
    """The content of a long .txt file; iterating over it reads the file again, in pieces of text."""

    path: str
    encoding: str
    num_characters: int

    def __len__(self) -> int:
        return self.num_characters

    def __iter__(self) -> Iterator[str]:
        return read_pieces(self.path, self.encoding)


# A document: its text, or an iterable of the pieces of one that is too long to be held; it can be iterated again.
Text: TypeAlias = str | Iterable[str]


def pieces_of(text: Text) -> Iterable[str]:
    """Return the pieces of a text, which give it if joined. They may end anywhere, even inside a word."""
    return (text,) if isinstance(text, str) else text


def read_pieces(path: str, encoding: str) -> Iterator[str]:
    """Read a file of text in pieces of about a megabyte.

    Args:
        path: of the file.
        encoding: of a file without a byte order mark.

    Yields:
        Pieces in order.

    Raises:
        OtherEncoding: The file is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder(UTF8)()
    num_bytes = 0
    with open_utf8(path, encoding) as file:
        while True:
            data = file.read(PIECE_BYTES)
            pending = len(decoder.getstate()[0])
            try:
                piece = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                position = num_bytes - pending + error.start
                raise OtherEncoding(
                    f"invalid UTF-8 ({error.reason}, byte {position}); {encoding_hint(error.object)}"
                ) from None
            num_bytes += len(data)
            if piece:
                yield piece
            if not data:
                return


def read_text(path: str, encoding: str) -> Text:
    """Read a file as one text. A long one is read once to check it, and again whenever its pieces are asked for."""
    pieces: list[str] = []
    num_characters = 0
    for piece in read_pieces(path, encoding):
        num_characters += len(piece)
        if num_characters <= LONG_CHARACTERS:
            pieces.append(piece)
        else:
            pieces.clear()
    return "".join(pieces) if num_characters <= LONG_CHARACTERS else LongText(path, encoding, num_characters)
