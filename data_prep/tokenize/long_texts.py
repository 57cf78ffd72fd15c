"""Encodes a long text piece by piece, so that memory does not grow with it: ids and offsets take 100 bytes a byte.

Neighbouring pieces overlap. They are joined where both have the same tokens in a row, with the same offsets: the piece
before knows what comes before these, and the piece after what comes after. So the ids are those of the whole text if no
token depends on text more than about a thousand characters away. This holds for what surrounds a whole text (a space
put before it) and wherever the pre-tokenizer splits at words. Inside of a word of thousands of characters there may be
no such place; then the pieces are joined in the middle of their overlap.
"""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
from tokenizers import Tokenizer

from data_prep.inputs.long_text import Text, pieces_of
from modernbert_train.common.types import Int64

PIECE_CHARACTERS = 250_000  # tens of megabytes while a piece is encoded
OVERLAP_CHARACTERS = 4_000
AGREEING_TOKENS = 8  # to either side of the place where two pieces are joined


def digest_of(text: Text, digest_size: int) -> bytes:
    """Return the BLAKE2b digest of a text in UTF-8."""
    digest = hashlib.blake2b(digest_size=digest_size)
    for piece in pieces_of(text):
        digest.update(piece.encode("utf-8"))
    return digest.digest()


def encode_long(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[tuple[str, list[int]]]:
    """Encode a text.

    Args:
        tokenizer: to encode with.
        texts: which give the text if joined, cut anywhere.

    Yields:
        The text without its end, piece by piece, and the ids of its tokens: pieces that give the whole if joined.
    """
    step = PIECE_CHARACTERS - OVERLAP_CHARACTERS
    held: Int64 | None = None  # tokens of the piece before, from where it was joined
    previous = ""
    for start, text in _pieces(texts, step):
        tokens = _encode(tokenizer, text, start)
        fresh = text if held is None else text[OVERLAP_CHARACTERS:]
        if held is not None:
            end, first = _join(held, tokens, start)
            yield previous, held[:end, 0].tolist()
            tokens = tokens[first:]
        held, previous = tokens, fresh
    if held is not None:
        yield previous, held[:, 0].tolist()


def _pieces(texts: Iterable[str], step: int) -> Iterator[tuple[int, str]]:
    """Yield pieces and where they begin, each `step` characters after the one before."""
    piece, start = "", 0
    for text in texts:
        for first in range(0, len(text), step):
            piece += text[first : first + step]
            if len(piece) > PIECE_CHARACTERS:
                yield start, piece[:PIECE_CHARACTERS]
                piece, start = piece[step:], start + step
    if piece:
        yield start, piece


def _encode(tokenizer: Tokenizer, text: str, start: int) -> Int64:
    """Return the tokens of a piece: id, first character, end; int64 [tokens, 3]."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    tokens = np.empty((len(encoding.ids), 3), np.int64)
    tokens[:, 0] = encoding.ids
    tokens[:, 1:] = np.array(encoding.offsets, np.int64).reshape(-1, 2) + start
    np.maximum.accumulate(tokens[:, 1], out=tokens[:, 1])  # sorted already, but for odd normalizers
    return tokens


def _join(before: Int64, after: Int64, start: int) -> tuple[int, int]:
    """Return the end of `before` and the first token of `after` that follows it; `after` begins at `start`."""
    middle = start + OVERLAP_CHARACTERS // 2
    reach = OVERLAP_CHARACTERS // 4
    starts = np.unique(before[:, 1])
    starts = starts[(starts >= middle - reach) & (starts <= middle + reach)]
    for place in starts[np.argsort(np.abs(starts - middle), kind="stable")]:
        end, first = (int(np.searchsorted(tokens[:, 1], place)) for tokens in (before, after))
        around = (
            before[max(0, end - AGREEING_TOKENS) : end + AGREEING_TOKENS],
            after[max(0, first - AGREEING_TOKENS) : first + AGREEING_TOKENS],
        )
        if len(around[0]) == 2 * AGREEING_TOKENS and np.array_equal(*around):
            return end, first
    end, first = (int(np.searchsorted(tokens[:, 1], middle)) for tokens in (before, after))
    return end, first
