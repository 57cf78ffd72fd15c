"""The endless order in which the blocks of one source are read.

A source is read in passes. The blocks of a pass are permuted and dealt to C canonical streams; pass follows pass
without a seam, so there is no end of an epoch to handle. What is dealt is a *unit*: a whole shard when there are many
shards to a stream, so that a machine downloads its own shards only, else a single block, so that small stores are
mixed finely. Unit number i of the endless sequence goes to stream i mod C: over the streams together, every block
comes up exactly once in a pass, and a source that is smaller than C units still serves all streams in turn.

Everything is a pure function of (blocks of the shards, C, key). Random numbers are the raw output of Philox, which
numpy keeps stable over its versions, so a plan can be remade years later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]

_SHARDS_PER_STREAM = 8  # from this many on, whole shards are dealt
_GROUP_SHARDS = 8  # blocks of so many consecutive shards of a stream are shuffled together


def philox(*key: object) -> np.random.Philox:
    """A counter-based generator whose stream depends on `key` alone (anything with a stable `repr`)."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64))


def permutation(size: int, *key: object) -> Int64:
    """A permutation of `range(size)` that depends on `key` alone."""
    return np.argsort(philox(*key).random_raw(size), kind="stable")


class SourceOrder:
    """The blocks of one source as C endless streams.

    Args:
        shard_blocks: blocks of each shard.
        block_tokens: [num_blocks] content tokens of each block.
        streams: C, the number of canonical streams.
        key: what the order depends on (seed, phase, source, ...).

    """

    def __init__(
        self,
        shard_blocks: Sequence[int],
        block_tokens: npt.NDArray[np.integer],
        streams: int,
        key: tuple[object, ...],
    ) -> None:
        assert sum(shard_blocks) == len(block_tokens) > 0
        self.block_tokens = np.asarray(block_tokens, dtype=np.int64)
        self.streams = streams
        self.key = key
        by_shard = len(shard_blocks) >= _SHARDS_PER_STREAM * streams
        self._unit_blocks = np.asarray(
            shard_blocks if by_shard else np.ones(len(block_tokens)), dtype=np.int64
        )
        self._unit_first = np.cumsum(self._unit_blocks) - self._unit_blocks
        self._group = _GROUP_SHARDS if by_shard else len(self._unit_blocks)
        self._ends: dict[int, list[int]] = {}  # stream -> tokens at the end of each of its passes so far
        self._pass: tuple[tuple[int, int], Int64] | None = None

    def blocks_of_pass(self, stream: int, pass_index: int) -> Int64:
        """The blocks that `stream` reads in a pass, in order; may be empty for a source of few units."""
        if self._pass is not None and self._pass[0] == (stream, pass_index):
            return self._pass[1]
        units = len(self._unit_blocks)
        first = -pass_index * units % self.streams  # so that dealing goes on where the pass before stopped
        offset = (stream + first) % self.streams
        dealt = permutation(units, *self.key, "units", pass_index)[offset :: self.streams]
        shuffled = []
        for group in range(0, len(dealt), self._group):
            in_group = self._blocks_of_units(dealt[group : group + self._group])
            shuffled.append(
                in_group[permutation(len(in_group), *self.key, "blocks", pass_index, stream, group)]
            )
        blocks = np.concatenate(shuffled) if shuffled else np.empty(0, dtype=np.int64)
        self._pass = ((stream, pass_index), blocks)
        return blocks

    def blocks_between(self, stream: int, start: int, stop: int) -> Int64:
        """The blocks of `stream` whose first token lies in [start, stop), counted in tokens from its very beginning."""
        ends = self._ends.setdefault(stream, [])
        while not ends or ends[-1] < stop:
            pass_tokens = int(self.block_tokens[self.blocks_of_pass(stream, len(ends))].sum())
            ends.append((ends[-1] if ends else 0) + pass_tokens)
        chosen = []
        for pass_index in range(int(np.searchsorted(ends, start, side="right")), len(ends)):
            pass_start = ends[pass_index - 1] if pass_index else 0
            if pass_start >= stop:
                break
            blocks = self.blocks_of_pass(stream, pass_index)
            tokens = self.block_tokens[blocks]
            first_tokens = pass_start + np.cumsum(tokens) - tokens
            chosen.append(blocks[(first_tokens >= start) & (first_tokens < stop)])
        return np.concatenate(chosen) if chosen else np.empty(0, dtype=np.int64)

    def _blocks_of_units(self, units: Int64) -> Int64:
        counts = self._unit_blocks[units]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(self._unit_first[units], counts) + within
