"""The plan: which documents make up which row of which window of which stream. Pure; reads lengths, never tokens.

The data is dealt to N canonical nodes (order.py), and each serves C/N canonical streams. A stream is cut into
windows: window w of the j-th stream of a node takes, of every source, interval w * C/N + j of the node's order, each
interval as many tokens as the source's share of the mixture. So the streams of a node read side by side, from the same
few shards. The documents of a window are cut into pieces no longer than the context, the pieces are packed into
rows, and the rows are permuted. A global batch takes the same number of rows from every stream. So what step k trains
on is known from (manifests, mixture, seed, phase, context, row) alone: it does not depend on the number of ranks or
workers, and a run resumes by a seek to C pairs (window, row).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modernbert_train.common.randomness import permutation
from modernbert_train.common.types import Int64
from modernbert_train.data.order import (
    BLOCK,
    DOCUMENTS,
    FIRST_DOCUMENT,
    TOKENS,
    SourceOrder,
    block_table,
    exclusive_cumsum,
)
from modernbert_train.data.packing import cut_into_pieces, pack
from modernbert_train.objectives import Masking, Objective
from modernbert_train.store.split import Split

SPECIALS_PER_PIECE = 2  # [CLS] before and [SEP] after the content
StreamPositions = dict[int, tuple[int, int]]  # stream -> (window, row)


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

    def source_tokens(self, sources: Sequence[str], left_out: npt.NDArray[np.bool_] | None = None) -> Int64:
        """Content tokens of each of the sources in each row, pieces left out not counted: int64 [num_rows, sources]."""
        number = {source: index for index, source in enumerate(sources)}
        of_block = np.array([number[source] for source, _ in self.blocks], dtype=np.int64)
        row_of_piece = np.repeat(np.arange(self.num_rows), np.diff(self.row_first))
        cell = row_of_piece * len(sources) + of_block[self.piece_block]
        tokens = self.piece_tokens if left_out is None else np.where(left_out, 0, self.piece_tokens)
        sums = np.bincount(cell, weights=tokens, minlength=self.num_rows * len(sources))
        return sums.astype(np.int64).reshape(self.num_rows, len(sources))

    def slots_used(self) -> int:
        """Slots that hold a token, specials included."""
        return int(self.piece_tokens.sum()) + SPECIALS_PER_PIECE * len(self.piece_tokens)


class Plan:
    """The rows of one phase.

    Args:
        sources: name -> its training split.
        mixture: name -> share of the content tokens; adds up to 1.
        num_streams: C, the number of canonical streams.
        num_nodes: N, the number of canonical nodes; divides C.
        shuffle_rows: rows of a window, about; less where the sources together hold less than that for each stream.
        context_tokens: most tokens of a piece, [CLS] and [SEP] included.
        row_tokens: slots of a row.
        key: (seed, name of the phase), or anything else that tells this plan from others.

    """

    def __init__(
        self,
        sources: Mapping[str, Split],
        mixture: Mapping[str, float],
        *,
        num_streams: int,
        num_nodes: int,
        shuffle_rows: int,
        context_tokens: int,
        row_tokens: int,
        key: tuple[object, ...],
    ) -> None:
        assert abs(sum(mixture.values()) - 1) < 1e-9
        assert set(mixture) <= set(sources)
        assert SPECIALS_PER_PIECE < context_tokens <= row_tokens
        assert num_streams % num_nodes == 0
        self.sources = {name: sources[name] for name in mixture}
        self.mixture = dict(mixture)
        self.num_streams = num_streams
        self.num_nodes = num_nodes
        self.context_tokens = context_tokens
        self.row_tokens = row_tokens
        self.key = key
        self._orders = {
            name: SourceOrder(split, num_nodes, (*key, name)) for name, split in self.sources.items()
        }
        stored = sum(split.num_tokens for split in self.sources.values())
        window_tokens = min(shuffle_rows * row_tokens, -(-stored // num_streams))
        self.quota = {name: share * window_tokens for name, share in mixture.items()}

    def window(self, stream: int, index: int) -> Window:
        """Window `index` of a stream. It has no rows when the next block of every source belongs to a later one."""
        parts = []
        blocks: list[tuple[str, int]] = []
        for name, chosen in self._blocks(stream, index):
            if len(chosen):
                piece_tokens = self.context_tokens - SPECIALS_PER_PIECE
                parts.append(_pieces_of_blocks(self.sources[name], chosen, piece_tokens, len(blocks)))
                blocks += [(name, block) for block in chosen[:, BLOCK].tolist()]
        return _packed(blocks, parts, self.row_tokens, (*self.key, "rows", stream, index))

    def shards(self, stream: int, index: int) -> list[tuple[str, int]]:
        """(source, shard) of all that window `index` of a stream reads; costs little, for it packs nothing."""
        return [
            (name, shard)
            for name, chosen in self._blocks(stream, index)
            for shard in sorted({self.sources[name].shard_of(block) for block in chosen[:, BLOCK].tolist()})
        ]

    def shards_at_once(self, nodes: int) -> dict[str, int]:
        """Shards of every source that so many nodes read side by side, while each stream is in the same window."""
        tokens = {name: self.num_streams // self.num_nodes * quota for name, quota in self.quota.items()}
        return {
            name: min(nodes * order.num_shards_of(tokens[name]), len(self.sources[name].shards))
            for name, order in self._orders.items()
        }

    def nodes_of(self, streams: Collection[int]) -> set[int]:
        """The canonical nodes that serve these streams."""
        return {stream // (self.num_streams // self.num_nodes) for stream in streams}

    def _blocks(self, stream: int, index: int) -> Iterator[tuple[str, Int64]]:
        """The blocks that a window takes of every source, as a table of order.py."""
        node, in_node = divmod(stream, self.num_streams // self.num_nodes)
        interval = index * (self.num_streams // self.num_nodes) + in_node
        for name, order in self._orders.items():
            # Quotas are cut at whole blocks, and counted from the beginning of the node: errors do not add up.
            start, stop = (int(self.quota[name] * edge) for edge in (interval, interval + 1))
            yield name, order.blocks_between(node, start, stop)


def advance(plan: Plan, stream: int, position: tuple[int, int], rows: int) -> tuple[int, int]:
    """The position `rows` rows further on in a stream. Windows are packed to count their rows, no token is read."""
    window, row = position
    row += rows
    while row > (num_rows := plan.window(stream, window).num_rows):
        window, row = window + 1, row - num_rows
    return window, row


def evaluation_window(name: str, split: Split, context_tokens: int, row_tokens: int, max_rows: int) -> Window:
    """About `max_rows` rows of a held-out split, the same for every run; all of it where it holds less."""
    blocks = block_table(split, np.arange(len(split.shards)))
    order = permutation(split.num_blocks, "evaluation", name)
    num_blocks = int(np.searchsorted(np.cumsum(blocks[order, TOKENS]), max_rows * row_tokens)) + 1
    chosen = blocks[np.sort(order[:num_blocks])]
    pieces = _pieces_of_blocks(split, chosen, context_tokens - SPECIALS_PER_PIECE, first_block=0)
    numbers = [(name, block) for block in chosen[:, BLOCK].tolist()]
    return _packed(numbers, [pieces], row_tokens, ("evaluation rows", name))


def _pieces_of_blocks(
    split: Split, blocks: Int64, piece_tokens: int, first_block: int
) -> tuple[Int64, Int64, Int64, Int64]:
    """Block (counted on from `first_block`), start in the block, tokens and document of every piece of these blocks."""
    first_documents, counts = blocks[:, FIRST_DOCUMENT], blocks[:, DOCUMENTS]
    lengths = np.concatenate(
        [split.lengths(first, count) for first, count in zip(first_documents, counts, strict=True)]
    ).astype(np.int64)
    block_of_document = np.repeat(np.arange(len(blocks)), counts)
    first_of_block = exclusive_cumsum(counts)[block_of_document]
    start = exclusive_cumsum(lengths)
    start_in_block = start - start[first_of_block]
    document = first_documents[block_of_document] + np.arange(len(lengths)) - first_of_block
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


@dataclass(frozen=True)
class PhaseRows:
    """What one phase reads: its plan, its objective, and the (number of steps, rows of a global batch) of its parts."""

    plan: Plan
    objective: Objective
    steps: tuple[tuple[int, int], ...]

    @property
    def num_steps(self) -> int:
        return sum(num_steps for num_steps, _ in self.steps)

    def batch_rows(self, phase_step: int) -> int:
        """Rows of the global batch of a step of the phase."""
        for num_steps, rows in self.steps:
            if phase_step < num_steps:
                return rows
            phase_step -= num_steps
        raise AssertionError("step beyond the end of the phase")

    def fingerprint(self, masking: Masking) -> str:
        """Changes with anything that decides which rows the phase reads, or how they are masked."""
        plan = self.plan
        sources = [(name, split.digest) for name, split in plan.sources.items()]
        content = (
            sources,
            plan.quota,
            plan.num_streams,
            plan.num_nodes,
            plan.context_tokens,
            plan.row_tokens,
            plan.key,
            self.objective.fingerprint,
        )
        fractions = masking.mask_fraction, masking.random_fraction
        return hashlib.sha256(repr((content, fractions)).encode()).hexdigest()[:16]


def fingerprint_at(phases: Sequence[PhaseRows], step: int, masking: Masking) -> str:
    """That of the phase which the last of the first `step` steps of a run belongs to."""
    for phase in phases:
        if step <= phase.num_steps:
            break
        step -= phase.num_steps
    return phase.fingerprint(masking)
