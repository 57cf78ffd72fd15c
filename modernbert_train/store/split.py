"""A split of a source: a folder of MDS shards, and sidecars from which batches are planned without reading a shard.

    lengths.npy  uint32 [num_documents]   content tokens of every document
    blocks.npy   int64 [num_blocks, 2]    documents, tokens of every block
    shards.npy   int64 [num_shards, 3]    blocks, documents, tokens of every shard

A sample of our own shards is a block. In a split of external shards (`sample_layout`, external.py) a sample is a
document, possibly empty, and a block is a run of consecutive samples of one shard.

All sidecars follow the order of the shards. At full size (3.3 billion documents) they take 13 GB, 0.4 GB and 1.5 MB:
the first two are memory-mapped and read in parts, only the third is read whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from modernbert_train.common.types import Int64, UInt32
from modernbert_train.store.external import SampleLayout
from modernbert_train.store.mds import read_shards

SIDECARS = ("lengths.npy", "blocks.npy", "shards.npy")


@dataclass(frozen=True)
class Split:
    """One split of a source: the number of its documents and tokens, and where they are stored."""

    # Folder of index.json and the sidecars, and of the shards unless `remote` is set.
    path: Path
    num_documents: int
    num_tokens: int
    num_blocks: int
    # Changes with the documents, their lengths or their shards; empty before the manifest is written.
    digest: str = ""
    # URL or folder of the shards; None: `path`.
    remote: str | None = None
    # How the samples hold the documents, in external shards.
    sample_layout: SampleLayout | None = None

    def lengths(self, first: int = 0, count: int | None = None) -> UInt32:
        """Return the content tokens of `count` documents (default: all) from number `first`: uint32 [count], a view."""
        return self._lengths[first : None if count is None else first + count]

    def blocks(self, first: int = 0, count: int | None = None) -> Int64:
        """Return the documents and tokens of `count` blocks (default: all) from number `first`: int64 [count, 2]."""
        return self._blocks[first : None if count is None else first + count]

    @cached_property
    def shards(self) -> Int64:
        """Blocks, documents and tokens of every shard: int64 [num_shards, 3]."""
        return np.load(self.path / "shards.npy")

    @cached_property
    def first_of_shards(self) -> Int64:
        """Numbers of the first block and the first document of every shard: int64 [num_shards, 2]."""
        counts = self.shards[:, :2]
        return np.cumsum(counts, axis=0) - counts

    def shard_of(self, block: int) -> int:
        """Return the number of the shard that holds a block."""
        return int(np.searchsorted(self.first_of_shards[:, 0], block, side="right")) - 1

    def first_document(self, block: int) -> int:
        """Return the number of the first document of a block."""
        first_block, first_document = self.first_of_shards[self.shard_of(block)].tolist()
        return first_document + int(self.blocks(first_block, block - first_block)[:, 0].sum())

    @cached_property
    def is_compressed(self) -> bool:
        """Whether any shard is compressed."""
        return any(shard.compressed for shard in read_shards(self.path))

    # Mapped once in each process: `__getstate__` leaves them out of what is sent to worker processes.
    @cached_property
    def _lengths(self) -> UInt32:
        return np.load(self.path / "lengths.npy", mmap_mode="r")

    @cached_property
    def _blocks(self) -> Int64:
        return np.load(self.path / "blocks.npy", mmap_mode="r")

    def __getstate__(self) -> dict[str, object]:
        """Return the fields only; what is mapped or cached is opened again where it is needed."""
        return {name: vars(self)[name] for name in self.__dataclass_fields__}


def comes_through_cache(split: Split) -> bool:
    """Check whether the shards of a split are read from the cache, not in place."""
    return split.remote is not None and ("://" in split.remote or split.is_compressed)


def write_sidecars(folder: Path, lengths: UInt32, blocks: Int64, shard_blocks: Int64) -> Split:
    """Write the sidecars of a folder of finished shards.

    Args:
        folder: with the shards and index.json.
        lengths: content tokens of every document, in the order of the shards [num_documents].
        blocks: documents and tokens of every block [num_blocks, 2].
        shard_blocks: number of blocks of every shard [num_shards].

    Returns:
        The split.
    """
    assert shard_blocks.sum() == len(blocks)
    assert blocks[:, 0].sum() == len(lengths)
    # Differences of sums, since a shard may be empty: MDSWriter writes one when a block exceeds the size of a shard.
    sums = np.concatenate([np.zeros((1, 2), np.int64), np.cumsum(blocks, axis=0)])
    ends = np.cumsum(shard_blocks)
    per_shard = sums[ends] - sums[ends - shard_blocks]
    np.save(folder / "lengths.npy", np.asarray(lengths, np.uint32))
    np.save(folder / "blocks.npy", np.asarray(blocks, np.int64))
    np.save(folder / "shards.npy", np.column_stack([shard_blocks, per_shard]).astype(np.int64))
    return Split(folder, len(lengths), int(blocks[:, 1].sum()), len(blocks))


def load_split(folder: Path) -> Split:
    """Load the split whose sidecars are in `folder`, as `write_sidecars` returned it."""
    documents, tokens = np.load(folder / "shards.npy")[:, 1:].sum(axis=0).tolist()
    return Split(folder, documents, tokens, len(np.load(folder / "blocks.npy", mmap_mode="r")))


def sidecar_shapes(split: Split) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the dtype and shape of every sidecar; -1 for a size that the split does not state."""
    return {
        "lengths.npy": ("uint32", (split.num_documents,)),
        "blocks.npy": ("int64", (split.num_blocks, 2)),
        "shards.npy": ("int64", (-1, 3)),
    }
