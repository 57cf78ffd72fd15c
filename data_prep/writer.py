"""Encoded documents -> MDS blocks with their two sidecars: one split of one source."""

from array import array
from pathlib import Path

import numpy as np
from streaming import MDSWriter

from modernbert_train.data.manifest import BLOCK_DOCUMENTS, BLOCK_TOKENS
from modernbert_train.data.split import Split, write_sidecars


class SplitWriter:
    """Writes documents in the order they come. Nothing is on disk before the first one."""

    def __init__(self, folder: Path, dtype: str, shard_bytes: int) -> None:
        self.folder = folder
        self.dtype = dtype
        self.shard_bytes = shard_bytes
        self.lengths = array("I")  # of all documents: 4 bytes each
        self.blocks: list[tuple[int, int]] = []
        self._mds: MDSWriter | None = None
        self._pending: list[np.ndarray] = []
        self._pending_tokens = 0

    def add(self, document: np.ndarray) -> None:
        """Append one document: ids [tokens > 0] of the split's dtype."""
        self._pending.append(document)
        self._pending_tokens += len(document)
        self.lengths.append(len(document))
        if len(self._pending) == BLOCK_DOCUMENTS or self._pending_tokens >= BLOCK_TOKENS:
            self._close_block()

    def _close_block(self) -> None:
        if self._mds is None:
            columns = {"input_ids": f"ndarray:{self.dtype}", "lengths": "ndarray:uint32"}
            # sha1 because readers check it with the standard library alone
            self._mds = MDSWriter(
                columns=columns, out=str(self.folder), hashes=["sha1"], size_limit=self.shard_bytes
            )
        lengths = np.array([len(document) for document in self._pending], np.uint32)
        self._mds.write({"input_ids": np.concatenate(self._pending), "lengths": lengths})
        self.blocks.append((len(self._pending), self._pending_tokens))
        self._pending, self._pending_tokens = [], 0

    def finish(self) -> Split | None:
        """Write the last block, index.json and the sidecars. None if there was no document."""
        if self._pending:
            self._close_block()
        if self._mds is None:
            return None
        self._mds.finish()
        shard_blocks = np.array([shard["samples"] for shard in self._mds.shards])
        lengths = np.frombuffer(self.lengths, np.uint32)
        return write_sidecars(self.folder, lengths, np.array(self.blocks, np.int64), shard_blocks)
