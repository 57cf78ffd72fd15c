"""The plan: which documents make up which row of which window of which stream. Pure; reads lengths, never tokens.

Each of C canonical streams is cut into windows. A window takes from every source the next blocks, as many tokens as
its share of the mixture; their documents are cut into pieces no longer than the context, the pieces are packed into
rows, and the rows are permuted. A global batch takes the same number of rows from every stream. So what step k trains
on is known from (manifests, mixture, seed, phase, context, row) alone: it does not depend on the number of ranks or
workers, and a run resumes by a seek to C pairs (window, row).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modernbert_train.data.manifest import Split
from modernbert_train.data.order import SourceOrder, permutation
from modernbert_train.data.packing import cut_into_pieces, pack

Int64 = npt.NDArray[np.int64]

SPECIALS_PER_PIECE = 2  # [CLS] before and [SEP] after the content


@dataclass(frozen=True)
class Window:
    """The rows of one window of one stream.

    `blocks` lists what must be read; pieces are sorted by row. All token positions count content tokens.
    """

    blocks: list[tuple[str, int]]  # [num_blocks] (source, block number)
    piece_block: Int64  # [num_pieces] index into `blocks`
    piece_start: Int64  # [num_pieces] first content token, counted from the beginning of the block
    piece_tokens: Int64  # [num_pieces] content tokens, without [CLS] and [SEP]
    piece_document: Int64  # [num_pieces] number of the document within its source
    row_first: Int64  # [num_rows + 1] first piece of each row

    @property
    def num_rows(self) -> int:
        return len(self.row_first) - 1

    def pieces(self, row: int) -> slice:
        """The pieces of a row."""
        return slice(int(self.row_first[row]), int(self.row_first[row + 1]))

    def slots_used(self) -> int:
        """Slots that hold a token, specials included."""
        return int(self.piece_tokens.sum()) + SPECIALS_PER_PIECE * len(self.piece_tokens)


class Plan:
    """The rows of one phase.

    Args:
        sources: name -> its training split.
        mixture: name -> share of the content tokens; adds up to 1.
        streams: C, the number of canonical streams.
        window_rows: rows of a window, about; less where the sources together hold less than that for each stream.
        context_tokens: most tokens of a piece, [CLS] and [SEP] included.
        row_tokens: slots of a row.
        key: (seed, phase number), or anything else that tells this plan from others.

    """

    def __init__(
        self,
        sources: Mapping[str, Split],
        mixture: Mapping[str, float],
        *,
        streams: int,
        window_rows: int,
        context_tokens: int,
        row_tokens: int,
        key: tuple[object, ...],
    ) -> None:
        assert abs(sum(mixture.values()) - 1) < 1e-9
        assert set(mixture) <= set(sources)
        assert SPECIALS_PER_PIECE < context_tokens <= row_tokens
        self.sources = {name: sources[name] for name in mixture}
        self.streams = streams
        self.context_tokens = context_tokens
        self.row_tokens = row_tokens
        self.key = key
        self._orders: dict[str, SourceOrder] = {}
        self._document_first: dict[str, Int64] = {}
        for name, split in self.sources.items():
            documents, tokens = np.asarray(split.blocks()).T
            self._orders[name] = SourceOrder(split.shard_blocks, tokens, streams, (*key, name))
            self._document_first[name] = np.cumsum(documents) - documents
        stored = sum(split.num_tokens for split in self.sources.values())
        window_tokens = min(window_rows * row_tokens, -(-stored // streams))
        self.quota = {name: share * window_tokens for name, share in mixture.items()}

    def window(self, stream: int, index: int) -> Window:
        """Window `index` of a stream. It has no rows when the next block of every source belongs to a later one."""
        parts = []
        blocks: list[tuple[str, int]] = []
        for name, order in self._orders.items():
            # Quotas are cut at whole blocks, and counted from the beginning of the stream: errors do not add up.
            start, stop = (int(self.quota[name] * edge) for edge in (index, index + 1))
            chosen = order.blocks_between(stream, start, stop)
            if len(chosen):
                piece_tokens = self.context_tokens - SPECIALS_PER_PIECE
                document_first = self._document_first[name]
                parts.append(
                    _pieces_of_blocks(
                        self.sources[name], document_first, chosen, piece_tokens, first_block=len(blocks)
                    )
                )
                blocks += [(name, int(block)) for block in chosen]
        return _packed(blocks, parts, self.row_tokens, (*self.key, "rows", stream, index))


def evaluation_window(name: str, split: Split, context_tokens: int, row_tokens: int, max_rows: int) -> Window:
    """About `max_rows` rows of a held-out split, the same for every run; all of it where it holds less."""
    documents, tokens = np.asarray(split.blocks()).T
    order = permutation(split.num_blocks, "evaluation", name)
    num_blocks = int(np.searchsorted(np.cumsum(tokens[order]), max_rows * row_tokens)) + 1
    chosen = np.sort(order[:num_blocks])
    document_first = np.cumsum(documents) - documents
    piece_tokens = context_tokens - SPECIALS_PER_PIECE
    pieces = _pieces_of_blocks(split, document_first, chosen, piece_tokens, first_block=0)
    return _packed([(name, int(block)) for block in chosen], [pieces], row_tokens, ("evaluation rows", name))


def _pieces_of_blocks(
    split: Split, document_first: Int64, blocks: Int64, piece_tokens: int, first_block: int
) -> tuple[Int64, Int64, Int64, Int64]:
    """Block (counted on from `first_block`), start in the block, tokens and document of every piece of these blocks."""
    counts = np.asarray(split.blocks())[blocks, 0]
    all_lengths = split.lengths()
    firsts = document_first[blocks]
    lengths = np.concatenate([all_lengths[i : i + n] for i, n in zip(firsts, counts, strict=True)]).astype(
        np.int64
    )
    block_of_document = np.repeat(np.arange(len(blocks)), counts)
    first_of_block = (np.cumsum(counts) - counts)[block_of_document]
    start = np.cumsum(lengths) - lengths
    start_in_block = start - start[first_of_block]
    document = firsts[block_of_document] + np.arange(len(lengths)) - first_of_block
    index, start_in_document, tokens = cut_into_pieces(lengths, piece_tokens)
    return (
        first_block + block_of_document[index],
        start_in_block[index] + start_in_document,
        tokens,
        document[index],
    )


def _packed(
    blocks: list[tuple[str, int]],
    parts: list[tuple[Int64, Int64, Int64, Int64]],
    row_tokens: int,
    key: tuple[object, ...],
) -> Window:
    """Pack the pieces of several sources into rows, in an order that does not follow their length."""
    if not parts:
        nothing = np.empty(0, dtype=np.int64)
        return Window([], nothing, nothing, nothing, nothing, np.zeros(1, dtype=np.int64))
    block, start, tokens, document = (np.concatenate(column) for column in zip(*parts, strict=True))
    packed = pack(tokens + SPECIALS_PER_PIECE, row_tokens)
    num_rows = int(packed.max()) + 1
    row = permutation(num_rows, *key)[packed]
    by_row = np.argsort(row, kind="stable")
    row_first = np.searchsorted(row[by_row], np.arange(num_rows + 1))
    return Window(blocks, block[by_row], start[by_row], tokens[by_row], document[by_row], row_first)
