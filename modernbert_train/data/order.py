"""The endless order in which the blocks of one source are read.

A source is read epoch after epoch without a seam. An epoch permutes *units* and deals them to the N canonical nodes. A
unit is a whole shard if every node gets many of them, so that a machine downloads only its own part; otherwise it is a
single block, so that small stores are mixed finely. Unit i of the endless sequence goes to node i mod N. Over all nodes
every block comes up exactly once per epoch, and a source with fewer than N units still serves all nodes in turn.
Where shards are dealt, the blocks of a few consecutive shards of a node, a *shard group*, are shuffled together.

The order of a node is thus one endless sequence of tokens, of which callers ask for intervals. The position of an
interval follows from the token counts of the units alone, and only the shard groups that it touches are laid out. So
an interval costs the same at any distance, and memory holds a table of the shards and one shard group per node,
however many documents there are.

Everything is a pure function of (shards, blocks, N, key), with random numbers that are stable over numpy versions, so
a plan can be reproduced years later.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modernbert_train.common.randomness import permutation
from modernbert_train.common.types import Int64
from modernbert_train.store.split import Split

# Whole shards are dealt from this number of shards per node on.
SHARDS_PER_NODE = 8
# Consecutive shards of a node whose blocks are shuffled together.
GROUP_SHARDS = 8

# Splits of up to this number of blocks are measured block by block.
_MEASURED_BLOCKS = 1 << 20

# Columns of a table of blocks: int64 [num_blocks, 4].
BLOCK, FIRST_DOCUMENT, DOCUMENTS, TOKENS = range(4)


def exclusive_cumsum(values: npt.NDArray[np.integer]) -> Int64:
    """Return the sum of the values before each value: int64, same shape."""
    return np.cumsum(values, dtype=np.int64) - values


def block_table(split: Split, shards: Int64) -> Int64:
    """Return the blocks of some shards, shard by shard: int64 [num_blocks, 4], columns as named above."""
    first_block, first_document = split.first_of_shards[shards].T
    num_blocks = split.shards[shards, 0]
    tables = []
    for block, document, count in zip(first_block, first_document, num_blocks, strict=True):
        stored = split.blocks(block, count)
        number = np.arange(block, block + count)
        tables.append(np.column_stack([number, document + exclusive_cumsum(stored[:, 0]), stored]))
    return np.concatenate(tables)


def block_sizes(split: Split) -> tuple[int, float]:
    """Return the tokens of the largest block, and the mean size of a token's block.

    Args:
        split: A split with tokens. The table of blocks of a very large one is not read; both are then the mean.

    Returns:
        Both in tokens.
    """
    if split.num_blocks > _MEASURED_BLOCKS:
        mean = -(-split.num_tokens // split.num_blocks)
        return mean, mean
    tokens = np.asarray(split.blocks()[:, 1])
    return int(tokens.max()), float(np.square(tokens, dtype=np.float64).sum()) / split.num_tokens


def deals_shards(split: Split, num_nodes: int) -> bool:
    """Check whether an epoch deals whole shards to the nodes, so that each downloads only its own part."""
    return len(split.shards) >= SHARDS_PER_NODE * num_nodes


@dataclass(frozen=True)
class _Epoch:
    """The units of one node in one epoch, in order and cut into groups."""

    units: Int64
    # Units per group; the last group may have fewer.
    group_units: int
    # [num_groups] in tokens from the beginning of the node's sequence
    group_ends: Int64


@dataclass(frozen=True)
class _Group:
    """Blocks that are shuffled together, in reading order."""

    # [num_blocks, 4] columns as named above
    blocks: Int64
    # [num_blocks] start of each block, in tokens from the beginning of the node's sequence
    first_tokens: Int64


class SourceOrder:
    """The blocks of one source as an endless sequence for each canonical node.

    Args:
        split: The split of the source that is read.
        num_nodes: N, the number of canonical nodes.
        key: What the order depends on (seed, phase, source, ...).
    """

    def __init__(self, split: Split, num_nodes: int, key: tuple[object, ...]) -> None:
        self._split = split
        self._num_nodes = num_nodes
        self._key = key
        self.deals_shards = deals_shards(split, num_nodes)
        if self.deals_shards:
            self._unit_tokens = split.shards[:, 2]
        else:
            # Few shards, so the table of all their blocks is small.
            self._blocks = block_table(split, np.arange(len(split.shards)))
            self._unit_tokens = self._blocks[:, TOKENS]
        # Caches, computed on demand: (epoch, permutation of its units);
        self._dealing: tuple[int, Int64] | None = None
        # node -> 0, and the tokens at the end of each of its epochs so far;
        self._epoch_ends: dict[int, list[int]] = {}
        # node -> (number, epoch) of its current epoch;
        self._epoch: dict[int, tuple[int, _Epoch]] = {}
        # node -> ((epoch, number in it), group) of its current group.
        self._group: dict[int, tuple[tuple[int, int], _Group]] = {}

    def blocks_between(self, node: int, start: int, stop: int) -> Int64:
        """Return the blocks of a node whose first token lies in [start, stop).

        Args:
            node: Canonical node.
            start: In tokens from the beginning of the node's sequence.
            stop: In the same unit.

        Returns:
            int64 [num_blocks, 4] in reading order: block, first document, documents, tokens.
        """
        chosen = [np.empty((0, 4), dtype=np.int64)]
        while start < stop:
            epoch_index, first_token, _ = self.epoch_at(node, start)
            epoch = self._epoch_of(node, epoch_index, first_token)
            number = int(np.searchsorted(epoch.group_ends, start, side="right"))
            group = self._group_of(node, epoch_index, epoch, number)
            first, last = np.searchsorted(group.first_tokens, [start, stop])
            chosen.append(group.blocks[first:last])
            start = int(epoch.group_ends[number])
        return np.concatenate(chosen)

    def epoch_at(self, node: int, token: int) -> tuple[int, int, int]:
        """Return the number of the epoch that contains a token of a node's sequence, its first token, and its end."""
        if self._num_nodes == 1:
            # All epochs have the same tokens.
            number, size = token // self._split.num_tokens, self._split.num_tokens
            return number, number * size, (number + 1) * size
        ends = self._epoch_ends.setdefault(node, [0])
        while ends[-1] <= token:
            ends.append(ends[-1] + int(self._unit_tokens[self._dealt(node, len(ends) - 1)].sum()))
        number = int(np.searchsorted(ends, token, side="right")) - 1
        return number, ends[number], ends[number + 1]

    def nearest_seam(self, node: int, token: int) -> int:
        """Return the beginning of an epoch of a node that is nearest to a token of its sequence."""
        _, start, end = self.epoch_at(node, token)
        return start if token - start < end - token else end

    def max_shards(self, tokens: float) -> int:
        """Return the most shards that `tokens` consecutive tokens of a node touch, if shards are of similar size."""
        if not self.deals_shards:
            return len(self._split.shards)
        groups = math.ceil(tokens / (GROUP_SHARDS * self._unit_tokens.mean())) + 1
        return min(groups * GROUP_SHARDS, -(-len(self._split.shards) // self._num_nodes))

    def _dealt(self, node: int, epoch_index: int) -> Int64:
        """Return the units of a node in an epoch, in order; may be empty for a source of few units."""
        if self._dealing is None or self._dealing[0] != epoch_index:
            order = permutation(len(self._unit_tokens), *self._key, "units", epoch_index)
            self._dealing = epoch_index, order
        # Continue where the previous epoch stopped.
        first = -epoch_index * len(self._unit_tokens) % self._num_nodes
        return self._dealing[1][(node + first) % self._num_nodes :: self._num_nodes]

    def _epoch_of(self, node: int, epoch_index: int, first_token: int) -> _Epoch:
        if node not in self._epoch or self._epoch[node][0] != epoch_index:
            units = self._dealt(node, epoch_index)
            group_units = GROUP_SHARDS if self.deals_shards else len(units)
            tokens = np.add.reduceat(self._unit_tokens[units], np.arange(0, len(units), group_units))
            self._epoch[node] = epoch_index, _Epoch(units, group_units, first_token + np.cumsum(tokens))
        return self._epoch[node][1]

    def _group_of(self, node: int, epoch_index: int, epoch: _Epoch, number: int) -> _Group:
        index = epoch_index, number
        if node not in self._group or self._group[node][0] != index:
            units = epoch.units[number * epoch.group_units :][: epoch.group_units]
            if self.deals_shards:
                blocks = block_table(self._split, units)
                blocks = blocks[permutation(len(blocks), *self._key, "blocks", epoch_index, node, number)]
            else:
                blocks = self._blocks[units]
            tokens = blocks[:, TOKENS]
            first_tokens = epoch.group_ends[number] - tokens.sum() + exclusive_cumsum(tokens)
            self._group[node] = index, _Group(blocks, first_tokens)
        return self._group[node][1]
