"""Packing of pieces into rows by their lengths. Pure, numpy only.

Best fit decreasing: pieces are taken longest first, and each goes into the fullest row that still has room for it; if
none has, a new row is opened. A few thousand pieces of text fill their rows to more than 99.9%. (Bin packing: D. S.
Johnson, "Near-optimal bin packing algorithms", 1973; for language models: "Fewer Truncations Improve Language
Modeling", 2024.)

    >>> pack([5, 3, 3, 2, 1], row_tokens=8)
    array([0, 0, 1, 1, 1], dtype=int32)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from modernbert_train.common.types import Int32, Int64


def pack(lengths: Sequence[int] | npt.NDArray[np.integer], row_tokens: int) -> Int32:
    """Assign each piece to a row by best fit decreasing.

    Args:
        lengths: [num_pieces] tokens of each piece, from 1 to `row_tokens`.
        row_tokens: Slots of a row.

    Returns:
        [num_pieces] row of each piece; rows are numbered from 0 in the order in which they are opened.

    Raises:
        ValueError: A piece is empty or longer than a row.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if sizes.size and (sizes.min() < 1 or sizes.max() > row_tokens):
        raise ValueError(
            f"lengths: every piece must have 1 to {row_tokens} tokens (row_tokens), "
            f"found {sizes.min()} to {sizes.max()}; cut long documents into pieces first"
        )
    rows = np.empty(sizes.size, dtype=np.int32)
    # A stable sort makes the result a function of the lengths alone.
    order = np.argsort(-sizes, kind="stable")
    # Bit c of `open_capacities` is set while some row has exactly c free slots. The fullest row with room for a piece
    # is then the lowest set bit at or above the piece's length, which two operations on one (long) integer find.
    open_capacities = 0
    rows_by_capacity: list[list[int]] = [[] for _ in range(row_tokens + 1)]
    num_rows = 0
    placed = []
    for size in sizes[order].tolist():
        fitting = open_capacities >> size
        if fitting:
            capacity = size + (fitting & -fitting).bit_length() - 1
            candidates = rows_by_capacity[capacity]
            row = candidates.pop()
            if not candidates:
                open_capacities ^= 1 << capacity
        else:
            capacity, row = row_tokens, num_rows
            num_rows += 1
        placed.append(row)
        free = capacity - size
        if free:
            if not rows_by_capacity[free]:
                open_capacities |= 1 << free
            rows_by_capacity[free].append(row)
    rows[order] = placed
    return rows


def cut_into_pieces(lengths: npt.NDArray[np.integer], piece_tokens: int) -> tuple[Int64, Int64, Int64]:
    """Cut documents into pieces of at most `piece_tokens` content tokens; nothing is dropped.

    Args:
        lengths: [num_documents] content tokens; an empty document has no piece.
        piece_tokens: Most content tokens of a piece (the context without [CLS] and [SEP]).

    Returns:
        Three arrays [num_pieces] in document order: document, start within the document, length. All pieces of a
        document but its last are full.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    counts = -(-sizes // piece_tokens)
    document = np.repeat(np.arange(sizes.size), counts)
    first_piece = np.cumsum(counts) - counts
    start = (np.arange(document.size) - first_piece[document]) * piece_tokens
    return document, start, np.minimum(piece_tokens, sizes[document] - start)
