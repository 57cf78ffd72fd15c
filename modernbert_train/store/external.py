"""Shards that others wrote, one document a sample: where the ids of a document lie, and a block of them in one read.

A block of such a split is a run of consecutive samples of one shard, so that it is planned like one of our own; it is
read by its byte range alone.

An MDS shard is: uint32 number of samples; uint32 offset of every sample, and of the end; a JSON header; the samples.
A sample: uint32 size of every column of variable size; then all columns, in the order of their names. An array:
[dtype] [dimensions << 2 | log2 of the bytes of a size] [sizes] [values], where the dtype stands only if the column
does not state it, and the next two only if the column states no shape (streaming/base/format/mds/encodings.py).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modernbert_train.common.types import Bytes, Int64
from modernbert_train.store.files import ShardFiles
from modernbert_train.store.mds import Shard
from modernbert_train.store.tokenizer import TokenizerInfo

SPECIALS = ("cls", "sep", "pad")  # what can be stripped from a document
INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
# First byte of an array whose column does not state the dtype
_DTYPE_CODES = {
    8: "uint8", 9: "int8", 16: "uint16", 17: "int16", 32: "uint32", 33: "int32", 64: "uint64", 65: "int64",
}  # fmt: skip
_REMEDY = "write the ids anew with streaming.MDSWriter as ndarray:uint16 or ndarray:uint32"


@dataclass(frozen=True)
class SampleLayout:
    """How the documents of a split lie in the samples of its shards."""

    column: str  # of the ids
    bytes_dtype: str | None  # of the ids, where the column holds bytes, which do not tell
    strip: tuple[str, ...]  # of SPECIALS: what the documents hold that is not content
    num_ids: int  # every id is below

    def to_json(self) -> dict[str, Any]:
        return {
            "column": self.column,
            "dtype": self.bytes_dtype,
            "strip": list(self.strip),
            "num_ids": self.num_ids,
        }

    @staticmethod
    def from_json(entry: dict[str, Any]) -> SampleLayout:
        return SampleLayout(
            str(entry["column"]), entry["dtype"], tuple(entry["strip"]), int(entry["num_ids"])
        )


@dataclass(frozen=True)
class ShardLayout:
    """Where the ids stand within every sample of a shard."""

    dtype: np.dtype[Any] | None  # None: each array tells its own
    has_shape: bool  # an array tells its length before its values
    ids_bytes: int | None  # of the column, if all samples have the same
    num_variable: int  # columns of variable size: so many sizes stand at the head of a sample
    variable_before: int  # of these, how many come before the ids
    fixed_before_bytes: int  # of the columns of fixed size before the ids
    fixed_bytes: int  # of all columns of fixed size

    @property
    def in_header(self) -> bool:
        """Whether the offsets of the samples tell how many ids each has."""
        return self.dtype is not None and self.num_variable == (self.ids_bytes is None)


@dataclass(frozen=True)
class Spans:
    """The ids of some samples."""

    first: Int64  # [num_samples] byte of the first id
    count: Int64  # [num_samples] ids
    dtype: np.dtype[Any]

    def ids_at(self, data: Bytes, index: Int64, which: npt.NDArray[np.bool_]) -> Int64:
        """Id number `index` [chosen] of the chosen samples (`which` [num_samples])."""
        at = self.first[which] + index * self.dtype.itemsize
        return _gather(data, at, self.dtype.itemsize).view(self.dtype)[:, 0].astype(np.int64)


def shard_layout(shard: Shard, samples: SampleLayout) -> ShardLayout:
    """Find the ids in the columns of a shard.

    Args:
        shard: its entry in index.json.
        samples: names the column, and the dtype where the column does not.

    Returns:
        Where the ids are in each sample.

    Raises:
        ValueError: The shard has no such column, or the column does not hold integers.

    """
    if samples.column not in shard.column_names:
        raise ValueError(
            f"column {samples.column!r} is not in the shard; it has: {', '.join(shard.column_names)}"
        )
    at, sizes = shard.column_names.index(samples.column), shard.column_sizes
    dtype, has_shape = _encoding(shard.column_encodings[at], samples)
    variable = [size is None for size in sizes]
    return ShardLayout(
        dtype=dtype,
        has_shape=has_shape,
        ids_bytes=sizes[at],
        num_variable=sum(variable),
        variable_before=sum(variable[:at]),
        fixed_before_bytes=sum(size or 0 for size in sizes[:at]),
        fixed_bytes=sum(size or 0 for size in sizes),
    )


def _encoding(encoding: str, samples: SampleLayout) -> tuple[np.dtype[Any] | None, bool]:
    """Dtype of the values (None: each array tells) and whether an array tells its length."""
    kind, *parts = encoding.split(":")
    if kind == "bytes" and samples.bytes_dtype in INTEGERS:
        return np.dtype(samples.bytes_dtype), False
    if kind == "bytes":
        raise ValueError(
            f"column {samples.column!r} holds bytes, which do not tell their dtype; name it with --dtype "
            f"({', '.join(INTEGERS)})"
        )
    if kind == "ndarray" and not parts:
        return None, True
    if kind == "ndarray" and parts[0] in INTEGERS and "," not in encoding:
        return np.dtype(parts[0]), len(parts) == 1
    if kind in INTEGERS and not parts:  # some writers registered an encoding of this name: bare values
        return np.dtype(kind), False
    raise ValueError(
        f"column {samples.column!r} is of type {encoding!r}, allowed: bytes, ndarray, ndarray:DTYPE and "
        f"ndarray:DTYPE:LENGTH with an integer dtype; {_REMEDY}"
    )


def sample_offsets(data: Bytes, num_samples: int, shard_bytes: int) -> tuple[Int64, Int64]:
    """Where the samples of a shard begin and end: its header. ValueError: it is not that of such a shard."""
    header = np.ascontiguousarray(data[: 4 * (num_samples + 2)]).view("<u4").astype(np.int64)
    if len(header) < num_samples + 2 or header[0] != num_samples:
        raise ValueError(f"{int(header[0]) if len(header) else 0:,} samples, index.json says {num_samples:,}")
    if header[-1] != shard_bytes or (np.diff(header[1:]) < 0).any():
        raise ValueError("its header does not fit its size (damaged)")
    return header[1:-1], header[2:]


def spans_of(layout: ShardLayout, data: Bytes, starts: Int64, ends: Int64) -> Spans:
    """Find the ids of samples that lie at [starts, ends) in `data`. ValueError: no such samples there."""
    heads_bytes = 4 * layout.num_variable
    sizes = _gather(data, starts, heads_bytes).view("<u4").astype(np.int64)  # [num_samples, num_variable]
    if not np.array_equal(starts + heads_bytes + layout.fixed_bytes + sizes.sum(axis=1), ends):
        raise ValueError("the sizes of its columns do not add up to the size of a sample")
    column = starts + heads_bytes + layout.fixed_before_bytes + sizes[:, : layout.variable_before].sum(axis=1)
    num_bytes = (
        np.full(len(starts), layout.ids_bytes) if layout.ids_bytes else sizes[:, layout.variable_before]
    )
    dtype = layout.dtype or _told_dtype(data[column])
    told = int(layout.dtype is None)
    head, count = _head_and_count(num_bytes - told, dtype, layout.has_shape)
    if layout.has_shape:
        one_dimension = (
            1 << 2 | np.array([0, 0, 0, 1, 0, 2])[head]
        )  # head: 1 byte, and 1, 2 or 4 for the length
        if not np.array_equal(data[column + told], one_dimension):
            raise ValueError(f"its arrays do not have one dimension; {_REMEDY}, one document a sample")
    return Spans(column + told + head, count, dtype)


def counts_in_header(layout: ShardLayout, starts: Int64, ends: Int64) -> Int64:
    """How many ids each sample has, by its size alone; for a layout that is `in_header`."""
    assert layout.dtype is not None
    num_bytes = ends - starts - 4 * layout.num_variable - layout.fixed_bytes + (layout.ids_bytes or 0)
    return _head_and_count(num_bytes, layout.dtype, layout.has_shape)[1]


def _head_and_count(num_bytes: Int64, dtype: np.dtype[Any], has_shape: bool) -> tuple[Int64, Int64]:
    """Bytes before the values, and the number of values, of arrays of `num_bytes`."""
    size = dtype.itemsize
    head = np.zeros_like(num_bytes)
    if has_shape:  # the length takes the smallest of 1, 2 or 4 bytes that holds it
        head += 2 + (num_bytes > 2 + 255 * size) + 2 * (num_bytes > 3 + 65_535 * size)
    count, rest = np.divmod(num_bytes - head, size)
    if rest.any() or (count < 0).any():
        raise ValueError(f"the size of a sample is not that of {dtype.name} values")
    return head, count


def _told_dtype(codes: Bytes) -> np.dtype[Any]:
    found = np.unique(codes).tolist()
    if len(found) != 1 or found[0] not in _DTYPE_CODES:
        raise ValueError(f"its arrays are of several dtypes, or not of integers (codes {found}); {_REMEDY}")
    return np.dtype(_DTYPE_CODES[found[0]])


def _gather(data: Bytes, at: Int64, width: int) -> Bytes:
    """`width` bytes from each of these places: uint8 [len(at), width]."""
    if len(at) and at.max() + width > len(data):
        raise ValueError("it ends within a sample")
    return np.ascontiguousarray(data[at[:, None] + np.arange(width)])


def content_lengths(data: Bytes, spans: Spans, samples: SampleLayout, tokenizer: TokenizerInfo) -> Int64:
    """Content tokens of every document, from the ids themselves: [CLS], a [SEP] and padding are not counted.

    ValueError: a document does not start with the [CLS] that is to be stripped, or has padding on the left.
    """
    count = spans.count.copy()
    if "pad" in samples.strip:
        for document in range(len(count)):
            count[document] = _without_padding(data, spans, document, tokenizer.pad_id)
    num_first = int("cls" in samples.strip)
    if num_first:
        filled = count > 0
        without = spans.ids_at(data, np.zeros(int(filled.sum()), np.int64), filled) != tokenizer.cls_id
        if without.any():
            raise ValueError(
                f"{int(without.sum()):,} of {len(count):,} documents do not start with [CLS] (id {tokenizer.cls_id}), "
                "which was to be stripped; index again with --strip sep or --strip none"
            )
    content = np.maximum(count - num_first, 0)
    if "sep" in samples.strip:
        filled = content > 0
        content[filled] -= spans.ids_at(data, count[filled] - 1, filled) == tokenizer.sep_id
    return content


def _without_padding(data: Bytes, spans: Spans, document: int, pad_id: int) -> int:
    first, count = int(spans.first[document]), int(spans.count[document])
    ids = data[first : first + count * spans.dtype.itemsize].view(spans.dtype)
    content = np.flatnonzero(ids != pad_id)
    if len(content) and content[0] > 0:
        raise ValueError(f"document {document} has padding on the left; {_REMEDY}, without padding")
    return int(content[-1]) + 1 if len(content) else 0


def read_block(
    file: Path, shard: Shard, samples: SampleLayout, first_sample: int, lengths: npt.NDArray[np.integer]
) -> np.ndarray:
    """Read the content of consecutive documents of a shard, by their byte range alone.

    Args:
        file: the uncompressed shard.
        shard: its entry in index.json.
        samples: how its samples hold the documents.
        first_sample: number of the first document within the shard.
        lengths: content tokens of each document [num_documents].

    Returns:
        The content ids, joined: uint16 or uint32 [sum(lengths)].

    Raises:
        OSError: The file does not exist or cannot be read.
        ValueError: The file is not the shard that was indexed.

    """
    opened = os.open(file, os.O_RDONLY)
    try:
        head = os.pread(opened, 4 * (len(lengths) + 1), 4 * (first_sample + 1))
        offsets = np.frombuffer(head, "<u4", len(lengths) + 1).astype(np.int64)
        data = np.frombuffer(os.pread(opened, int(offsets[-1] - offsets[0]), int(offsets[0])), np.uint8)
    finally:
        os.close(opened)
    offsets -= offsets[0]
    spans = spans_of(shard_layout(shard, samples), data, offsets[:-1], offsets[1:])
    num_first = int("cls" in samples.strip)
    # What is left besides the content: a [SEP], padding, or, in an empty document, no [CLS].
    left_over = spans.count - num_first - lengths
    most = np.iinfo(np.int64).max if "pad" in samples.strip else int("sep" in samples.strip)
    if (left_over < np.where(lengths == 0, -1, 0)).any() or (left_over > most).any():
        raise ValueError("its documents have other lengths than when it was indexed")
    return content_ids(data, spans, samples, lengths)


def read_document(
    files: ShardFiles, shard: Shard, samples: SampleLayout, number: int, length: int
) -> np.ndarray:
    """Read the content ids [length] of one document of a shard, and no more of the shard than necessary."""
    layout = shard_layout(shard, samples)
    if shard.compressed:
        data = files.read_shard(shard)
        starts, ends = sample_offsets(data, shard.num_samples, len(data))
    else:
        name = shard.raw.basename
        offsets = files.read(name, 4 * (number + 1), 4 * (number + 3)).view("<u4").astype(np.int64)
        data = files.read(name, int(offsets[0]), int(offsets[1]))
        starts, ends, number = offsets[:1] - offsets[0], offsets[1:] - offsets[0], 0
    spans = spans_of(layout, data, starts[number : number + 1], ends[number : number + 1])
    return content_ids(data, spans, samples, np.array([length]))


def content_ids(
    data: Bytes, spans: Spans, samples: SampleLayout, lengths: npt.NDArray[np.integer]
) -> np.ndarray:
    """Content of some documents, joined: uint16 or uint32 [sum(lengths)].

    ValueError: ids that are none of the tokenizer's.
    """
    view, size = data.data, spans.dtype.itemsize
    first = spans.first + size * int("cls" in samples.strip)
    last = first + size * lengths.astype(np.int64)
    parts = [view[start:stop] for start, stop in zip(first.tolist(), last.tolist(), strict=True)]
    ids = np.frombuffer(b"".join(parts), spans.dtype)
    if len(ids) and (ids.min() < 0 or ids.max() >= samples.num_ids):
        raise ValueError(
            f"it has ids from {ids.min()} to {ids.max()}, the tokenizer's are 0 to {samples.num_ids - 1}: "
            "made with another tokenizer, or read with another dtype"
        )
    return ids.astype(np.uint16 if samples.num_ids <= 1 << 16 else np.uint32, copy=False)
