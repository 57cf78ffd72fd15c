"""A split of a source: a folder of MDS shards, and sidecars from which batches are planned without reading a shard.

    lengths.npy  uint32 [num_documents]   content tokens of every document
    blocks.npy   int64 [num_blocks, 2]    documents, tokens of every block
    shards.npy   int64 [num_shards, 3]    blocks, documents, tokens of every shard

A sample of our own shards is a block. In a split of external shards (`sample_layout`, external.py) a sample is a
document, possibly empty, and a block is a run of consecutive samples of one shard.

All sidecars follow the order of the shards. At full size (3.3 billion documents) they take 13 GB, 0.4 GB and 1.5 MB:
the first two are read in parts, only the third is read whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from modernbert_train.common.types import Int64, UInt32
from modernbert_train.store.arrays import ArrayFile
from modernbert_train.store.external import SampleLayout
from modernbert_train.store.mds import IDS_COLUMN, LENGTHS_COLUMN, Shard, read_shards

SIDECARS = ("lengths.npy", "blocks.npy", "shards.npy")
# Number of lengths read at a time.
_CHUNK_ROWS = 1 << 22
# Number of blocks, of up to 128 documents each, whose lengths are added up at a time.
_CHUNK_BLOCKS = _CHUNK_ROWS // 128
# Encodings of the columns of our own shards.
_ENCODINGS = tuple((f"ndarray:{dtype}", "ndarray:uint32") for dtype in ("uint16", "uint32"))


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
        """Return the content tokens of `count` documents (default: all) from number `first`: uint32 [count]."""
        return self._lengths.read(first, count)

    def lengths_in_parts(self) -> Iterator[UInt32]:
        """Yield the content tokens of all documents, in parts that fit into memory."""
        for first in range(0, self.num_documents, _CHUNK_ROWS):
            yield self.lengths(first, _CHUNK_ROWS)

    def blocks(self, first: int = 0, count: int | None = None) -> Int64:
        """Return the documents and tokens of `count` blocks (default: all) from number `first`: int64 [count, 2]."""
        return self._blocks.read(first, count)

    @cached_property
    def shards(self) -> Int64:
        """Blocks, documents and tokens of every shard: int64 [num_shards, 3]."""
        return ArrayFile(self.path / "shards.npy", "int64", 3).read()

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

    # Opened once in each process: `__getstate__` leaves them out of what is sent to worker processes.
    @cached_property
    def _lengths(self) -> ArrayFile:
        return ArrayFile(self.path / "lengths.npy", "uint32")

    @cached_property
    def _blocks(self) -> ArrayFile:
        return ArrayFile(self.path / "blocks.npy", "int64", 2)

    def __getstate__(self) -> dict[str, object]:
        """Return the fields only; what is opened or cached is opened again where it is needed."""
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
    blocks, documents, tokens = ArrayFile(folder / "shards.npy", "int64", 3).read().sum(axis=0).tolist()
    return Split(folder, documents, tokens, blocks)


def row_problem(split: Split) -> str | None:
    """Return which sidecar has another number of rows than the manifest says; None if none has."""
    for name, rows, stated in (
        ("lengths.npy", split._lengths.num_rows, split.num_documents),
        ("blocks.npy", split._blocks.num_rows, split.num_blocks),
    ):
        if rows != stated:
            return f"{name} has {rows:,} rows, the manifest says {stated:,}"
    return None


def number_problem(split: Split) -> str | None:
    """Return what is wrong with the numbers of a split: they must add up, from documents to the manifest."""
    shards = split.shards
    stated = {"blocks": split.num_blocks, "documents": split.num_documents, "tokens": split.num_tokens}
    if (shards < 0).any():
        return "a number in shards.npy is negative"
    for (what, number), column in zip(stated.items(), shards.T.tolist(), strict=True):
        if sum(column) != number:
            return f"{sum(column):,} {what} in shards.npy, the manifest says {number:,}"
    # Blocks, documents and tokens before each shard, as the blocks and the lengths must give them.
    ends = np.cumsum(shards, axis=0)
    first_document, before = 0, np.zeros(2, np.int64)
    for first in range(0, max(1, split.num_blocks), _CHUNK_BLOCKS):
        blocks = split.blocks(first, _CHUNK_BLOCKS)
        documents = blocks[:, 0]
        if ((documents < 0) | (documents > split.num_documents)).any():
            return "a number of documents in blocks.npy is not one of this split"
        lengths = split.lengths(first_document, int(documents.sum()))
        sums = np.zeros((len(blocks) + 1, 2), np.int64)
        np.cumsum(documents, out=sums[1:, 0])
        if sums[-1, 0] != len(lengths):
            return "blocks.npy has more documents than lengths.npy"
        sums[:, 1] = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])[sums[:, 0]]
        if not np.array_equal(np.diff(sums[:, 1]), blocks[:, 1]):
            block = first + int(np.flatnonzero(np.diff(sums[:, 1]) != blocks[:, 1])[0])
            return f"the tokens of block {block} in blocks.npy are not those of its documents in lengths.npy"
        here = (ends[:, 0] >= first) & (ends[:, 0] <= first + len(blocks))
        if not np.array_equal(before + sums[ends[here, 0] - first], ends[here, 1:]):
            return "the documents and tokens of the shards in shards.npy are not those of their blocks in blocks.npy"
        first_document += len(lengths)
        before = before + sums[-1]
    return None


def index_problem(split: Split, shards: Sequence[Shard]) -> str | None:
    """Return how the entries of the index.json of a split do not fit its sidecars; None if they do."""
    if len(shards) != len(split.shards):
        return f"{len(shards):,} shards, shards.npy says {len(split.shards):,}"
    # What a sample is, and its column in shards.npy.
    unit, column = ("blocks", 0) if split.sample_layout is None else ("documents", 1)
    stated = zip(shards, split.shards[:, column].tolist(), split.shards[:, 2].tolist(), strict=True)
    for number, (shard, num_samples, num_tokens) in enumerate(stated):
        if shard.num_samples != num_samples:
            return f"{shard.num_samples:,} {unit} in shard {number}, shards.npy says {num_samples:,}"
        if split.sample_layout is None and not (
            shard.column_names == (IDS_COLUMN, LENGTHS_COLUMN)
            and shard.column_encodings in _ENCODINGS
            and shard.compressed is None
        ):
            return f"shard {number} is not one of blocks of documents"
        id_bytes = 1 if split.sample_layout else np.dtype(shard.ids_dtype).itemsize
        if num_tokens * id_bytes > shard.raw.bytes:
            return f"shard {number} has {shard.raw.bytes:,} bytes, too few for {num_tokens:,} tokens"
    return None
