"""The plan: which documents make up each row of each stream. Pure; reads lengths, never tokens.

The blocks of each source are dealt to N canonical nodes (order.py), and each node serves C/N of the C streams. A stream
is cut into shuffle blocks. Shuffle block b of the j-th stream of a node takes interval b * C/N + j of the node's order
of every source; the intervals have as many tokens as the source's share of the mixture. So the streams of a node read
side by side, from the same few shards. The documents of a shuffle block are cut into pieces no longer than the context,
the pieces are packed into rows, and the rows are permuted. A global batch takes the same number of rows from every
stream. So the rows of step k follow from (manifests, mixture, seed, phase, context, row length) alone. They do not
depend on the number of ranks or workers, and a run resumes by a seek to C positions (shuffle block, row).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from modernbert_train.common.randomness import permutation
from modernbert_train.common.types import Bool, Int64
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

# [CLS] before and [SEP] after the content.
SPECIALS_PER_PIECE = 2

# (shuffle block, row) of a stream.
Position = tuple[int, int]
StreamPositions = dict[int, Position]


@dataclass(frozen=True)
class ShuffleBlock:
    """Rows that are packed and shuffled together. Pieces are sorted by row; token counts are of content tokens."""

    context_tokens: int
    row_tokens: int
    # [num_blocks] (source, block number): what must be read
    blocks: list[tuple[str, int]]
    # [num_pieces] index into `blocks`
    piece_block: Int64
    # [num_pieces] first token, counted from the beginning of the block
    piece_start: Int64
    # [num_pieces] without [CLS] and [SEP]
    piece_tokens: Int64
    # [num_pieces] number of the document within its source
    piece_document: Int64
    # [num_rows + 1] first piece of each row
    row_first: Int64

    @property
    def num_rows(self) -> int:
        return len(self.row_first) - 1

    def pieces(self, row: int) -> slice:
        """Return the pieces of a row."""
        return slice(int(self.row_first[row]), int(self.row_first[row + 1]))

    def source_tokens(self, sources: Sequence[str], left_out: Bool | None = None) -> Int64:
        """Count the content tokens of each source in each row.

        Args:
            sources: All sources of the plan, in the order of the columns.
            left_out: [num_pieces] True for pieces that do not count; None if all do.

        Returns:
            int64 [num_rows, num_sources].
        """
        number = {source: index for index, source in enumerate(sources)}
        source_of_block = np.array([number[source] for source, _ in self.blocks], dtype=np.int64)
        row_of_piece = np.repeat(np.arange(self.num_rows), np.diff(self.row_first))
        cell = row_of_piece * len(sources) + source_of_block[self.piece_block]
        tokens = self.piece_tokens if left_out is None else np.where(left_out, 0, self.piece_tokens)
        sums = np.bincount(cell, weights=tokens, minlength=self.num_rows * len(sources))
        return sums.astype(np.int64).reshape(self.num_rows, len(sources))

    def slots_used(self) -> int:
        """Return the number of slots that hold a token, [CLS] and [SEP] included."""
        return int(self.piece_tokens.sum()) + SPECIALS_PER_PIECE * len(self.piece_tokens)


class Plan:
    """The rows of one phase.

    Args:
        sources: Name -> training split.
        mixture: Name -> share of the content tokens; the shares add up to 1.
        num_streams: C, the number of streams.
        num_nodes: N, the number of canonical nodes; divides C.
        shuffle_rows: Approximate rows of a shuffle block; fewer if the sources hold less than that for each stream.
        context_tokens: Most tokens of a piece, [CLS] and [SEP] included.
        row_tokens: Slots of a row.
        key: (seed, phase name), or anything else that distinguishes this plan from others.
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
        tokens = min(shuffle_rows * row_tokens, -(-stored // num_streams))
        # Source -> content tokens of it in a shuffle block.
        self.quota = {name: share * tokens for name, share in mixture.items()}

    def shuffle_block(self, stream: int, index: int) -> ShuffleBlock:
        """Pack shuffle block `index` of a stream; it has no rows if no block of a source begins in its intervals."""
        parts = []
        blocks: list[tuple[str, int]] = []
        for name, chosen in self._blocks(stream, index):
            if len(chosen):
                piece_tokens = self.context_tokens - SPECIALS_PER_PIECE
                parts.append(_pieces_of_blocks(self.sources[name], chosen, piece_tokens, len(blocks)))
                blocks += [(name, block) for block in chosen[:, BLOCK].tolist()]
        return _packed(
            self.context_tokens, self.row_tokens, blocks, parts, (*self.key, "rows", stream, index)
        )

    def shards(self, stream: int, index: int) -> list[tuple[str, int]]:
        """Return (source, shard) of all that a shuffle block reads. Cheap: packs nothing."""
        return [
            (name, shard)
            for name, chosen in self._blocks(stream, index)
            for shard in sorted({self.sources[name].shard_of(block) for block in chosen[:, BLOCK].tolist()})
        ]

    def shards_at_once(self, nodes: int) -> dict[str, int]:
        """Return the shards of each source that `nodes` nodes read while all streams are at the same shuffle block."""
        tokens = {name: self.num_streams // self.num_nodes * quota for name, quota in self.quota.items()}
        return {
            name: min(nodes * order.max_shards(tokens[name]), len(self.sources[name].shards))
            for name, order in self._orders.items()
        }

    def nodes_of(self, streams: Collection[int]) -> set[int]:
        """Return the canonical nodes that serve these streams."""
        return {stream // (self.num_streams // self.num_nodes) for stream in streams}

    def _blocks(self, stream: int, index: int) -> Iterator[tuple[str, Int64]]:
        """Yield each source with the table (order.py) of the blocks that a shuffle block takes of it."""
        node, in_node = divmod(stream, self.num_streams // self.num_nodes)
        interval = index * (self.num_streams // self.num_nodes) + in_node
        for name, order in self._orders.items():
            # Intervals are cut at whole blocks but counted from the beginning of the node, so errors do not add up.
            start, stop = (int(self.quota[name] * edge) for edge in (interval, interval + 1))
            yield name, order.blocks_between(node, start, stop)


def advance(plan: Plan, stream: int, position: Position, rows: int) -> Position:
    """Return the position `rows` rows further on in a stream; packs shuffle blocks to count their rows."""
    index, row = position
    row += rows
    while row > (num_rows := plan.shuffle_block(stream, index).num_rows):
        index, row = index + 1, row - num_rows
    return index, row


def evaluation_shuffle_block(
    source: str, split: Split, context_tokens: int, row_tokens: int, max_rows: int
) -> ShuffleBlock:
    """Return about `max_rows` rows of a held-out split, the same in every run; all rows if it holds fewer."""
    blocks = block_table(split, np.arange(len(split.shards)))
    order = permutation(split.num_blocks, "evaluation", source)
    num_blocks = int(np.searchsorted(np.cumsum(blocks[order, TOKENS]), max_rows * row_tokens)) + 1
    chosen = blocks[np.sort(order[:num_blocks])]
    pieces = _pieces_of_blocks(split, chosen, context_tokens - SPECIALS_PER_PIECE, first_block=0)
    numbers = [(source, block) for block in chosen[:, BLOCK].tolist()]
    return _packed(context_tokens, row_tokens, numbers, [pieces], ("evaluation rows", source))


def _pieces_of_blocks(
    split: Split, blocks: Int64, piece_tokens: int, first_block: int
) -> tuple[Int64, Int64, Int64, Int64]:
    """Cut the documents of some blocks into pieces.

    Returns:
        Four arrays [num_pieces]: block (numbered from `first_block` on), start in the block, tokens, document.
    """
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
    context_tokens: int,
    row_tokens: int,
    blocks: list[tuple[str, int]],
    parts: list[tuple[Int64, Int64, Int64, Int64]],
    key: tuple[object, ...],
) -> ShuffleBlock:
    """Pack the pieces of several sources into rows, and permute the rows: packing orders them by length."""
    if not parts:
        nothing = np.empty(0, dtype=np.int64)
        return ShuffleBlock(
            context_tokens, row_tokens, [], nothing, nothing, nothing, nothing, np.zeros(1, dtype=np.int64)
        )
    block, start, tokens, document = (np.concatenate(column) for column in zip(*parts, strict=True))
    packed = pack(tokens + SPECIALS_PER_PIECE, row_tokens)
    num_rows = int(packed.max()) + 1
    row = permutation(num_rows, *key)[packed]
    by_row = np.argsort(row, kind="stable")
    return ShuffleBlock(
        context_tokens=context_tokens,
        row_tokens=row_tokens,
        blocks=blocks,
        piece_block=block[by_row],
        piece_start=start[by_row],
        piece_tokens=tokens[by_row],
        piece_document=document[by_row],
        row_first=np.searchsorted(row[by_row], np.arange(num_rows + 1)),
    )


@dataclass(frozen=True)
class PhaseRows:
    """What one phase reads: its plan, its objective, and the number of rows of each step."""

    plan: Plan
    objective: Objective
    # (number of steps, rows of a global batch), one pair for each batch size
    steps: tuple[tuple[int, int], ...]

    @property
    def num_steps(self) -> int:
        return sum(num_steps for num_steps, _ in self.steps)

    def batch_rows(self, phase_step: int) -> int:
        """Return the rows of the global batch of a step of the phase."""
        for num_steps, rows in self.steps:
            if phase_step < num_steps:
                return rows
            phase_step -= num_steps
        raise AssertionError("step beyond the end of the phase")

    def fingerprint(self, masking: Masking) -> str:
        """Return a hash of everything that decides which rows the phase reads, and which targets they have."""
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
    """Return the fingerprint of the phase that contains the last of the first `step` steps of a run."""
    for phase in phases:
        if step <= phase.num_steps:
            break
        step -= phase.num_steps
    return phase.fingerprint(masking)
