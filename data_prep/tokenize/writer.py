"""Encoded documents -> MDS shards and sidecars of one split of a source or of a part."""

from array import array
from pathlib import Path

import numpy as np

from modernbert_train.store.blocks import is_full
from modernbert_train.store.mds import Shard, ShardFormat, encode_block, write_shards
from modernbert_train.store.split import Split, write_sidecars


class SplitWriter:
    """Writes the documents of a split, in order. Nothing is on disk before the first shard is full."""

    def __init__(self, folder: Path, dtype: str, shard_bytes: int) -> None:
        self.folder = folder
        self.format = ShardFormat(dtype, shard_bytes)
        self.lengths = array("I")  # tokens of every document, 4 bytes each
        self.blocks: list[tuple[int, int]] = []
        self.shards: list[Shard] = []
        self._samples: list[bytes] = []
        self._shard_bytes = self.format.empty_bytes
        self._pending: list[np.ndarray] = []
        self._pending_tokens = 0

    def add(self, document: np.ndarray) -> None:
        """Append a document: ids [tokens > 0] of the split's dtype."""
        self._pending.append(document)
        self._pending_tokens += len(document)
        self.lengths.append(len(document))
        if is_full(len(self._pending), self._pending_tokens):
            self._close_block()

    def _close_block(self) -> None:
        lengths = np.array([len(document) for document in self._pending], np.uint32)
        sample = encode_block(self._pending, lengths)
        if self._samples and self._shard_bytes + len(sample) + 4 > self.format.shard_bytes:
            self._close_shard()
        self._samples.append(sample)
        self._shard_bytes += len(sample) + 4
        self.blocks.append((len(self._pending), self._pending_tokens))
        self._pending, self._pending_tokens = [], 0

    def _close_shard(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.shards.append(self.format.write(self.folder, len(self.shards), self._samples))
        self._samples, self._shard_bytes = [], self.format.empty_bytes

    def finish(self) -> Split | None:
        """Write the last block, index.json and the sidecars; return None if there was no document."""
        if self._pending:
            self._close_block()
        if self._samples:
            self._close_shard()
        if not self.shards:
            return None
        write_shards(self.folder, self.shards)
        shard_blocks = np.array([shard.num_samples for shard in self.shards])
        lengths = np.frombuffer(self.lengths, np.uint32)
        return write_sidecars(self.folder, lengths, np.array(self.blocks, np.int64), shard_blocks)
