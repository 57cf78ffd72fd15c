"""The sidecars of a split that is being indexed."""

import os
from pathlib import Path

import numpy as np

from modernbert_train.common.types import Int64
from modernbert_train.store.blocks import cut_into_blocks
from modernbert_train.store.mds import Shard, write_shards
from modernbert_train.store.split import Split, write_sidecars

PARTS = ("lengths.part", "blocks.part", "shards.part")


class PartialSidecars:
    """Sidecars that grow on disk shard by shard, so that an interrupted run can resume."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lengths, self._blocks, self._shards = (folder / name for name in PARTS)
        done = self._read_shards()
        self.next_shard = int(done[-1, 0]) + 1 if len(done) else 0
        # drop the lengths and blocks of a shard that was not recorded as done
        _truncate(self._lengths, 4 * int(done[:, 1].sum()))
        _truncate(self._blocks, 16 * int(done[:, 2].sum()))
        _truncate(self._shards, 24 * len(done))
        self.num_tokens = int(self._read_blocks()[:, 1].sum())

    def _read_shards(self) -> Int64:
        """Read number, documents and blocks of every finished shard: int64 [num_shards, 3]."""
        if not self._shards.exists():
            return np.empty((0, 3), np.int64)
        stored = np.fromfile(self._shards, np.int64)
        return stored[: len(stored) // 3 * 3].reshape(-1, 3)

    def _read_blocks(self) -> Int64:
        return np.fromfile(self._blocks, np.int64).reshape(-1, 2)

    def add(self, number: int, lengths: Int64) -> None:
        blocks = cut_into_blocks(lengths)
        record = np.array([number, len(lengths), len(blocks)], np.int64)
        for file, values in (
            (self._lengths, lengths.astype(np.uint32)),
            (self._blocks, blocks),
            (self._shards, record),
        ):
            with open(file, "ab") as part:
                values.tofile(part)
        self.num_tokens += int(blocks[:, 1].sum())

    def finish(self, shards: list[Shard]) -> Split:
        """Write index.json and the sidecars.

        Args:
            shards: all shards of the split.

        Returns:
            The split, without shards that were left out.

        Raises:
            ValueError: There is no token.
        """
        done = self._read_shards()
        if not self.num_tokens:
            raise ValueError(f"source {'/'.join(self.folder.parts[-2:])}: no document has any content token")
        lengths = np.memmap(self._lengths, np.uint32, "r")
        split = write_sidecars(self.folder, lengths, self._read_blocks(), done[:, 2])
        write_shards(self.folder, [shards[number] for number in done[:, 0]])
        for part in (self._lengths, self._blocks, self._shards):
            part.unlink()
        return split


def _truncate(file: Path, num_bytes: int) -> None:
    file.touch()
    os.truncate(file, num_bytes)
