"""The plan: which documents make up each row of each stream. Pure; reads lengths, never tokens.

The blocks of each source are dealt to N canonical nodes (order.py). Rows come in *sequences*, each of which is cut into
shuffle blocks. Of n sequences of a node, shuffle block b of the j-th takes interval b * n + j of the node's order of
every source; the intervals have as many tokens as the source's share of the mixture. The documents of a shuffle block
are cut into pieces no longer than the context, the pieces are packed into rows, and the rows are permuted. A global
batch takes the same number of rows from each of the C streams. So the rows of step k follow from (manifests, mixture,
seed, phase, context, row length) alone. They do not depend on the number of ranks or workers, and a run resumes by a
seek to C positions (shuffle block, row).

How streams read sequences depends on the size of the sources (`_layout`):

*Large sources*: each stream reads a sequence of its own; each node serves C/N of them. The streams of a node read side
by side, from the same few shards. So a batch is drawn from C shuffle blocks, and each of them is read by one worker.
While streams pass from one epoch to the next, some documents have been read twice more often than others.

*Small sources*, which hold too little for C shuffle blocks of reasonable size: all streams share one sequence, and take
its rows in turn. Intervals begin where epochs begin, so no document is read again before every other document of its
source has been read as often. Each worker plans and reads every shuffle block, of which it uses some rows.
"""

from __future__ import annotations

import hashlib
import math
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
    block_sizes,
    block_table,
    deals_shards,
    exclusive_cumsum,
)
from modernbert_train.data.packing import cut_into_pieces, pack
from modernbert_train.objectives import Masking, Objective
from modernbert_train.store.split import Split

# [CLS] before and [SEP] after the content.
SPECIALS_PER_PIECE = 2

# A shuffle block holds at least this number of rows, so that they are well filled, and this number of blocks, so that
# intervals that are cut at whole blocks have similar sizes.
_LEAST_ROWS, _LEAST_BLOCKS = 64, 16
# Most shuffle blocks without a row that follow each other. Of a shared sequence at most one, before a seam. Of a
# stream's own, a sixteenth of all at most: a larger share of the tokens is not in blocks longer than an interval.
_MOST_EMPTY = 1_000

# (shuffle block, row) in the sequence of a stream.
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


@dataclass(frozen=True)
class _Layout:
    """How streams read sequences, and the size of a shuffle block."""

    num_sequences: int
    num_nodes: int
    # Content tokens of a shuffle block.
    tokens: int


def _layout(
    sources: Mapping[str, Split],
    mixture: Mapping[str, float],
    *,
    num_streams: int,
    num_nodes: int,
    shuffle_rows: int,
    row_tokens: int,
) -> _Layout:
    """Choose between a sequence for each stream and a shared one. The arguments are those of `Plan`."""
    sizes = {name: block_sizes(split) for name, split in sources.items()}
    # Tokens of the mixture during which a source is read once.
    epochs = {name: split.num_tokens / mixture[name] for name, split in sources.items()}
    # During `reach` tokens, sources that make up most of the mixture are read once.
    reach = min(
        tokens for tokens in epochs.values() if _most(mixture, {n for n in epochs if epochs[n] <= tokens})
    )
    least = max(_LEAST_ROWS * row_tokens, math.ceil(_LEAST_BLOCKS * max(mean for _, mean in sizes.values())))
    wanted = shuffle_rows * row_tokens
    if reach >= num_streams * least:
        tokens = min(max(wanted, least), int(reach // num_streams))
        return _Layout(num_streams, num_nodes, tokens)
    # Keep the nodes apart only where that saves downloads: over all nodes, epochs do not begin at the same time.
    nodes = (
        num_nodes
        if _most(mixture, {name for name in sources if deals_shards(sources[name], num_nodes)})
        else 1
    )
    tokens = max(
        min(wanted, int(min(epochs.values()) // nodes)),
        min(_LEAST_ROWS * row_tokens, int(reach // nodes)),
        # A block of at least one source begins in every interval of this length.
        math.ceil(min(largest / mixture[name] for name, (largest, _) in sizes.items())),
    )
    return _Layout(nodes, nodes, tokens)


def _most(mixture: Mapping[str, float], sources: Collection[str]) -> bool:
    """Check whether some sources make up most of the mixture."""
    return sum(mixture[name] for name in sources) > 0.5


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

    Raises:
        ValueError: A source has no tokens.
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
        for name, split in self.sources.items():
            if split.num_tokens == 0:
                raise ValueError(f"source {name} ({split.path}) has no tokens; leave it out of the mixture")
        self.mixture = dict(mixture)
        self.num_streams = num_streams
        self.context_tokens = context_tokens
        self.row_tokens = row_tokens
        self.key = key
        layout = _layout(
            self.sources,
            mixture,
            num_streams=num_streams,
            num_nodes=num_nodes,
            shuffle_rows=shuffle_rows,
            row_tokens=row_tokens,
        )
        self.num_sequences = layout.num_sequences
        # 1 where all nodes read the same sequence.
        self.num_nodes = layout.num_nodes
        # A source of few shards saves no downloads, so all nodes read it in one order.
        self._nodes = {
            name: self.num_nodes if deals_shards(split, self.num_nodes) else 1
            for name, split in self.sources.items()
        }
        self._orders = {
            name: SourceOrder(split, self._nodes[name], (*key, name)) for name, split in self.sources.items()
        }
        # Source -> content tokens of it in a shuffle block.
        self.quota = {name: share * layout.tokens for name, share in mixture.items()}
        # Sequence -> (number, shuffle block), the last one planned.
        self._latest: dict[int, tuple[int, ShuffleBlock]] = {}

    @property
    def streams_per_sequence(self) -> int:
        """Number of streams that take the rows of a sequence in turn; 1 if each stream has its own."""
        return self.num_streams // self.num_sequences

    def shuffle_block(self, sequence: int, index: int) -> ShuffleBlock:
        """Pack shuffle block `index` of a sequence; it has no rows if no block of a source begins in its intervals."""
        assert 0 <= sequence < self.num_sequences
        if sequence not in self._latest or self._latest[sequence][0] != index:
            self._latest[sequence] = index, self._plan_shuffle_block(sequence, index)
        return self._latest[sequence][1]

    def _plan_shuffle_block(self, sequence: int, index: int) -> ShuffleBlock:
        parts = []
        blocks: list[tuple[str, int]] = []
        for name, chosen in self._blocks(sequence, index):
            if len(chosen):
                piece_tokens = self.context_tokens - SPECIALS_PER_PIECE
                parts.append(_pieces_of_blocks(self.sources[name], chosen, piece_tokens, len(blocks)))
                blocks += [(name, block) for block in chosen[:, BLOCK].tolist()]
        return _packed(
            self.context_tokens, self.row_tokens, blocks, parts, (*self.key, "rows", sequence, index)
        )

    def advance(self, sequence: int, position: Position, rows: int) -> Position:
        """Return the position `rows` rows further on in a sequence; packs shuffle blocks to count their rows.

        Args:
            sequence: Number of the sequence.
            position: Where to start.
            rows: Rows to pass over.

        Returns:
            The position after these rows.

        Raises:
            ValueError: Too many shuffle blocks that follow each other have no rows.
        """
        index, row = position
        row += rows
        num_empty = 0
        while row > (num_rows := self.shuffle_block(sequence, index).num_rows):
            index, row = index + 1, row - num_rows
            num_empty = 0 if num_rows else num_empty + 1
            if num_empty > _MOST_EMPTY:
                raise ValueError(
                    f"data: {num_empty} shuffle blocks of sequence {sequence} up to {index} have no text; "
                    f"a store has blocks much larger than a shuffle block: raise data.shuffle_rows"
                )
        return index, row

    def shards(self, sequence: int, index: int) -> list[tuple[str, int]]:
        """Return (source, shard) of all that a shuffle block reads. Cheap: packs nothing."""
        return [
            (name, shard)
            for name, chosen in self._blocks(sequence, index)
            for shard in sorted({self.sources[name].shard_of(block) for block in chosen[:, BLOCK].tolist()})
        ]

    def shards_at_once(self, nodes: int) -> dict[str, int]:
        """Return the shards of each source that `nodes` nodes read while all streams are at the same shuffle block."""
        tokens = {name: self.num_sequences // self._nodes[name] * quota for name, quota in self.quota.items()}
        return {
            name: min(
                min(nodes, self._nodes[name]) * order.max_shards(tokens[name]), len(self.sources[name].shards)
            )
            for name, order in self._orders.items()
        }

    def nodes_of(self, streams: Collection[int]) -> set[int]:
        """Return the canonical nodes that serve these streams."""
        return {stream // (self.num_streams // self.num_nodes) for stream in streams}

    def _blocks(self, sequence: int, index: int) -> Iterator[tuple[str, Int64]]:
        """Yield each source with the table (order.py) of the blocks that a shuffle block takes of it."""
        for name, order in self._orders.items():
            per_node = self.num_sequences // self._nodes[name]
            node, in_node = divmod(sequence, per_node)
            interval = index * per_node + in_node
            start, stop = (self._edge(name, node, edge) for edge in (interval, interval + 1))
            yield name, order.blocks_between(node, start, stop)

    def _edge(self, name: str, node: int, interval: int) -> int:
        """Return the first token of an interval of a source, counted from the beginning of the node's order.

        Intervals are cut at whole blocks but counted from the beginning, so errors do not add up. Where a node has one
        sequence, edges move to the nearest seam: one edge is at every seam between two epochs or, where intervals are
        longer than epochs, every edge is at one.
        """
        quota = self.quota[name]
        edge = quota * interval
        if self.num_sequences > self._nodes[name]:
            return int(edge)
        seam = self._orders[name].nearest_seam(node, int(edge))
        return seam if -quota / 2 < edge - seam <= quota / 2 else int(edge)


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
