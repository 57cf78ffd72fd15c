"""The endless order in which the blocks of one source are read, slice by slice.

A source is read in passes; pass follows pass without a seam, so there is no end of an epoch to handle. What a pass
permutes and deals to the N canonical nodes is a *unit*: a whole shard where a node gets many, so that a machine
downloads its own share only, else a single block, so that small stores are mixed finely. Unit number i of the endless
sequence goes to node i mod N: over the nodes together every block comes up exactly once in a pass, and a source of
fewer than N units still serves all nodes in turn. The blocks of a few consecutive shards of a node, a *slice*, are
shuffled together.

A node's order is thus one endless sequence of tokens, and whoever reads asks for an interval of it. Where an interval
lies follows from the tokens of the units alone; only the slices that it touches are ever laid out. So it costs the
same at any distance, and memory for a table of the shards and one slice of each node, however many documents there
are.

Everything is a pure function of (shards, blocks, N, key). Random numbers are the raw output of Philox, which numpy
keeps stable over its versions, so a plan can be remade years later.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modernbert_train.common.randomness import permutation
from modernbert_train.common.types import Int64
from modernbert_train.store.split import Split

SHARDS_PER_NODE = 8  # from this many on, whole shards are dealt
SLICE_SHARDS = 8  # blocks of so many consecutive shards of a node are shuffled together

# Columns of a table of blocks: int64 [num_blocks, 4]
BLOCK, FIRST_DOCUMENT, DOCUMENTS, TOKENS = range(4)


def exclusive_cumsum(values: npt.NDArray[np.integer]) -> Int64:
    """Sum of what comes before each value: int64, same shape."""
    return np.cumsum(values, dtype=np.int64) - values


def block_table(split: Split, shards: Int64) -> Int64:
    """The blocks of some shards, shard by shard: int64 [num_blocks, 4], columns as named above."""
    first_block, first_document = split.first_of_shards[shards].T
    num_blocks = split.shards[shards, 0]
    tables = []
    for block, document, count in zip(first_block, first_document, num_blocks, strict=True):
        stored = split.blocks(block, count)
        number = np.arange(block, block + count)
        tables.append(np.column_stack([number, document + exclusive_cumsum(stored[:, 0]), stored]))
    return np.concatenate(tables)


@dataclass(frozen=True)
class _Pass:
    """What a node reads in one pass: units in order, cut into slices. Tokens count from the node's very beginning."""

    units: Int64
    slice_units: int  # units of a slice; the last may have fewer
    slice_ends: Int64  # [num_slices] tokens


@dataclass(frozen=True)
class _Slice:
    """Blocks that are shuffled together, in the order of reading."""

    blocks: Int64  # [num_blocks, 4] columns as named above
    first_tokens: Int64  # [num_blocks] where each begins, counted from the node's very beginning


class SourceOrder:
    """The blocks of one source as N endless sequences.

    Args:
        split: of the source.
        nodes: N, the number of canonical nodes.
        key: what the order depends on (seed, phase, source, ...).

    """

    def __init__(self, split: Split, nodes: int, key: tuple[object, ...]) -> None:
        self._split = split
        self._nodes = nodes
        self._key = key
        self.deals_shards = len(split.shards) >= SHARDS_PER_NODE * nodes
        if self.deals_shards:
            self._unit_tokens = split.shards[:, 2]
        else:  # few shards, so the table is small
            self._blocks = block_table(split, np.arange(len(split.shards)))
            self._unit_tokens = self._blocks[:, TOKENS]
        # Computed when first needed; none of it is more than a cache.
        self._dealing: tuple[int, Int64] | None = None  # number of a pass, its permutation of the units
        self._pass_ends: dict[int, list[int]] = {}  # node -> tokens at the end of each of its passes so far
        self._pass: dict[int, tuple[int, _Pass]] = {}  # node -> the pass it is in, and its number
        self._slice: dict[
            int, tuple[tuple[int, int], _Slice]
        ] = {}  # node -> its slice, and (pass, number in it)

    def blocks_between(self, node: int, start: int, stop: int) -> Int64:
        """The blocks of `node` whose first token lies in [start, stop), counted in tokens from its very beginning.

        Returns:
            int64 [num_blocks, 4] in the order of reading: block, first document, documents, tokens.

        """
        chosen = [np.empty((0, 4), dtype=np.int64)]
        while start < stop:
            pass_index = self._pass_at(node, start)
            of_pass = self._pass_of(node, pass_index)
            number = int(np.searchsorted(of_pass.slice_ends, start, side="right"))
            laid_out = self._slice_of(node, pass_index, number)
            first, last = np.searchsorted(laid_out.first_tokens, [start, stop])
            chosen.append(laid_out.blocks[first:last])
            start = int(of_pass.slice_ends[number])
        return np.concatenate(chosen)

    def num_shards_of(self, tokens: float) -> int:
        """Shards that an interval of so many tokens of a node touches, at most (of shards of about equal size)."""
        if not self.deals_shards:
            return len(self._split.shards)
        slices = math.ceil(tokens / (SLICE_SHARDS * self._unit_tokens.mean())) + 1
        return min(slices * SLICE_SHARDS, -(-len(self._split.shards) // self._nodes))

    def _dealt(self, node: int, pass_index: int) -> Int64:
        """The units of a node in a pass, in order; may be empty for a source of few units."""
        if self._dealing is None or self._dealing[0] != pass_index:
            order = permutation(len(self._unit_tokens), *self._key, "units", pass_index)
            self._dealing = pass_index, order
        first = -pass_index * len(self._unit_tokens) % self._nodes  # go on where the pass before stopped
        return self._dealing[1][(node + first) % self._nodes :: self._nodes]

    def _pass_at(self, node: int, token: int) -> int:
        ends = self._pass_ends.setdefault(node, [])
        while not ends or ends[-1] <= token:
            tokens = int(self._unit_tokens[self._dealt(node, len(ends))].sum())
            ends.append((ends[-1] if ends else 0) + tokens)
        return int(np.searchsorted(ends, token, side="right"))

    def _pass_of(self, node: int, pass_index: int) -> _Pass:
        if node not in self._pass or self._pass[node][0] != pass_index:
            start = self._pass_ends[node][pass_index - 1] if pass_index else 0
            units = self._dealt(node, pass_index)
            slice_units = SLICE_SHARDS if self.deals_shards else len(units)
            tokens = np.add.reduceat(self._unit_tokens[units], np.arange(0, len(units), slice_units))
            self._pass[node] = pass_index, _Pass(units, slice_units, start + np.cumsum(tokens))
        return self._pass[node][1]

    def _slice_of(self, node: int, pass_index: int, number: int) -> _Slice:
        place = pass_index, number
        if node not in self._slice or self._slice[node][0] != place:
            of_pass = self._pass_of(node, pass_index)
            units = of_pass.units[number * of_pass.slice_units :][: of_pass.slice_units]
            if self.deals_shards:
                blocks = block_table(self._split, units)
                blocks = blocks[permutation(len(blocks), *self._key, "blocks", pass_index, node, number)]
            else:
                blocks = self._blocks[units]
            tokens = blocks[:, TOKENS]
            first_tokens = of_pass.slice_ends[number] - tokens.sum() + exclusive_cumsum(tokens)
            self._slice[node] = place, _Slice(blocks, first_tokens)
        return self._slice[node][1]
