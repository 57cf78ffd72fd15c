"""External MDS shards, written by other programs: one document per sample, in one of several columns.

A block of such a split is a run of consecutive samples of one shard, so that it is planned like a block of our own
shards. It is read in one request, by its byte range.

    shard    uint32 number of samples; uint32 offset of every sample, and of the end; a JSON header; the samples
    sample   uint32 size of every column of variable size; then all columns, in the order of their names
    array    [dtype] [number of dimensions << 2 | log2 of the bytes of a size] [sizes] values

An array starts with its dtype only if the column does not state one, and with its sizes only if the column does not
state a shape (streaming/base/format/mds/encodings.py).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modernbert_train.common.types import Bool, Bytes, Int64
from modernbert_train.store.fields import Fields
from modernbert_train.store.files import ShardFiles
from modernbert_train.store.mds import Shard
from modernbert_train.store.tokenizer import TokenizerInfo

# What can be stripped from a document.
SPECIALS = ("cls", "sep", "pad")
INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
# First byte of an array whose column does not state the dtype.
_DTYPE_CODES = {
    8: "uint8", 9: "int8", 16: "uint16", 17: "int16", 32: "uint32", 33: "int32", 64: "uint64", 65: "int64",
}  # fmt: skip
_REMEDY = "write the ids anew with streaming.MDSWriter as ndarray:uint16 or ndarray:uint32"


@dataclass(frozen=True)
class SampleLayout:
    """How the samples of a split hold its documents."""

    # Name of the column of ids.
    column: str
    # Dtype of the ids if the column has type `bytes`, which does not state it.
    bytes_dtype: str | None
    # Which of SPECIALS the documents contain besides their content.
    strip: tuple[str, ...]
    # Every id is below.
    num_ids: int

    def to_json(self) -> dict[str, Any]:
        """Return the entry of the manifest."""
        return {
            "column": self.column,
            "dtype": self.bytes_dtype,
            "strip": list(self.strip),
            "num_ids": self.num_ids,
        }

    @staticmethod
    def from_fields(entry: Fields) -> SampleLayout:
        """Parse an entry of the manifest; raise ValueError for a wrong field."""
        if entry.value("dtype") not in (None, *INTEGERS):
            raise entry.refuse("dtype", f"null, {', '.join(INTEGERS)}")
        if not set(strip := entry.texts("strip")) <= set(SPECIALS):
            raise entry.refuse("strip", f"a list of {', '.join(SPECIALS)}")
        num_ids = entry.whole("num_ids", least=1, most=1 << 32)
        return SampleLayout(entry.text("column"), entry.value("dtype"), strip, num_ids)


@dataclass(frozen=True)
class ShardLayout:
    """Where the ids are within each sample of a shard."""

    # None: each array states its own.
    dtype: np.dtype[Any] | None
    # Whether each array states its length before its values.
    has_shape: bool
    # Size of the column of ids if it is fixed.
    ids_bytes: int | None
    # Number of columns of variable size, whose sizes begin each sample.
    num_variable: int
    # Number of columns of variable size before the ids.
    variable_before: int
    # Bytes of the columns of fixed size before the ids.
    fixed_before_bytes: int
    # Bytes of all columns of fixed size.
    fixed_bytes: int

    @property
    def in_header(self) -> bool:
        """Whether the number of ids of each sample follows from its size, so that the header of a shard is enough."""
        return self.dtype is not None and self.num_variable == (self.ids_bytes is None)


@dataclass(frozen=True)
class Spans:
    """Where the ids of some samples are in an array of bytes."""

    # Byte of the first id [num_samples].
    first: Int64
    # Number of ids [num_samples].
    count: Int64
    dtype: np.dtype[Any]

    def ids_at(self, data: Bytes, index: Int64, which: Bool) -> Int64:
        """Return id number `index` [chosen] of the chosen samples (`which` [num_samples])."""
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
    """Return the dtype of the values (None: each array states it) and whether an array states its length."""
    kind, *parts = encoding.split(":")
    if kind == "bytes" and samples.bytes_dtype in INTEGERS:
        return np.dtype(samples.bytes_dtype), False
    if kind == "bytes":
        raise ValueError(
            f"column {samples.column!r} has type bytes, which does not state a dtype; name it with --dtype "
            f"({', '.join(INTEGERS)})"
        )
    if kind == "ndarray" and not parts:
        return None, True
    if kind == "ndarray" and parts[0] in INTEGERS and "," not in encoding:
        return np.dtype(parts[0]), len(parts) == 1
    if kind in INTEGERS and not parts:  # bare values, an encoding that some writers have registered
        return np.dtype(kind), False
    raise ValueError(
        f"column {samples.column!r} is of type {encoding!r}, allowed: bytes, ndarray, ndarray:DTYPE and "
        f"ndarray:DTYPE:LENGTH with an integer dtype; {_REMEDY}"
    )


def sample_offsets(data: Bytes, num_samples: int, shard_bytes: int) -> tuple[Int64, Int64]:
    """Read the offsets of the samples from the header of a shard.

    Args:
        data: the shard, or its first 4 * (num_samples + 2) bytes.
        num_samples: as index.json states it.
        shard_bytes: size of the whole shard.

    Returns:
        First byte of each sample, and the byte after its last: int64 [num_samples] each.

    Raises:
        ValueError: The header does not belong to such a shard.
    """
    if len(data) < 4 * (num_samples + 2):
        raise ValueError("it ends within its header")
    header = np.ascontiguousarray(data[: 4 * (num_samples + 2)]).view("<u4").astype(np.int64)
    if header[0] != num_samples:
        raise ValueError(f"{int(header[0]):,} samples, index.json says {num_samples:,}")
    if header[-1] != shard_bytes or (np.diff(header[1:]) < 0).any():
        raise ValueError("its header does not fit its size (damaged)")
    return header[1:-1], header[2:]


def spans_of(layout: ShardLayout, data: Bytes, starts: Int64, ends: Int64) -> Spans:
    """Find the ids of samples.

    Args:
        layout: of the shard.
        data: bytes that hold the samples.
        starts: first byte of each sample [num_samples].
        ends: byte after the last of each sample [num_samples].

    Returns:
        Where the ids of each sample are in `data`.

    Raises:
        ValueError: The bytes are not such samples.
    """
    heads_bytes = 4 * layout.num_variable
    sizes = _gather(data, starts, heads_bytes).view("<u4").astype(np.int64)  # [num_samples, num_variable]
    if not np.array_equal(starts + heads_bytes + layout.fixed_bytes + sizes.sum(axis=1), ends):
        raise ValueError("the sizes of its columns do not add up to the size of a sample")
    column = starts + heads_bytes + layout.fixed_before_bytes + sizes[:, : layout.variable_before].sum(axis=1)
    num_bytes = (
        np.full(len(starts), layout.ids_bytes) if layout.ids_bytes else sizes[:, layout.variable_before]
    )
    dtype = layout.dtype or _stated_dtype(_gather(data, column, 1))
    dtype_bytes = int(layout.dtype is None)
    head_bytes, count = _head_and_count(num_bytes - dtype_bytes, dtype, layout.has_shape)
    if layout.has_shape:
        # The head is this byte, and 1, 2 or 4 bytes that hold the length.
        length_bytes_log2 = np.log2(head_bytes - 1).astype(np.int64)
        if not np.array_equal(_gather(data, column + dtype_bytes, 1)[:, 0], 1 << 2 | length_bytes_log2):
            raise ValueError(f"its arrays do not have one dimension; {_REMEDY}, one document a sample")
    return Spans(column + dtype_bytes + head_bytes, count, dtype)


def counts_in_header(layout: ShardLayout, starts: Int64, ends: Int64) -> Int64:
    """Return the number of ids of each sample [num_samples], from its size; for a layout that is `in_header`."""
    assert layout.dtype is not None
    num_bytes = ends - starts - 4 * layout.num_variable - layout.fixed_bytes + (layout.ids_bytes or 0)
    return _head_and_count(num_bytes, layout.dtype, layout.has_shape)[1]


def _head_and_count(num_bytes: Int64, dtype: np.dtype[Any], has_shape: bool) -> tuple[Int64, Int64]:
    """Return the bytes before the values and the number of values of arrays of `num_bytes`, without their dtypes."""
    size = dtype.itemsize
    head = np.zeros_like(num_bytes)
    if has_shape:  # one byte, and the smallest of 1, 2 or 4 bytes that holds the length
        head += 2 + (num_bytes > 2 + 255 * size) + 2 * (num_bytes > 3 + 65_535 * size)
    count, rest = np.divmod(num_bytes - head, size)
    if rest.any() or (count < 0).any():
        raise ValueError(f"the size of a sample is not that of {dtype.name} values")
    return head, count


def _stated_dtype(codes: Bytes) -> np.dtype[Any]:
    found = np.unique(codes).tolist()
    if len(found) != 1 or found[0] not in _DTYPE_CODES:
        raise ValueError(f"its arrays are of several dtypes, or not of integers (codes {found}); {_REMEDY}")
    return np.dtype(_DTYPE_CODES[found[0]])


def _gather(data: Bytes, at: Int64, width: int) -> Bytes:
    """Return `width` bytes from each position in `at`: uint8 [len(at), width]."""
    if len(at) and at.max() + width > len(data):
        raise ValueError("it ends within a sample")
    return np.ascontiguousarray(data[at[:, None] + np.arange(width)])


def content_lengths(data: Bytes, spans: Spans, samples: SampleLayout, tokenizer: TokenizerInfo) -> Int64:
    """Count the content tokens of every document, without [CLS], the [SEP] and padding.

    Args:
        data: bytes that hold the samples.
        spans: of their ids.
        samples: what to strip.
        tokenizer: with the ids of the special tokens.

    Returns:
        Content tokens of each document: int64 [num_documents].

    Raises:
        ValueError: A document does not start with the [CLS] to strip, or has padding on the left.
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
        if (np.diff(offsets) < 0).any() or offsets[-1] > os.fstat(opened).st_size:
            raise ValueError("its header is damaged")
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
    """Extract the content of some documents.

    Args:
        data: bytes that hold the samples.
        spans: of their ids.
        samples: what to strip.
        lengths: content tokens of each document [num_documents].

    Returns:
        The content ids, joined: uint16 or uint32 [sum(lengths)].

    Raises:
        ValueError: An id is not one of the tokenizer's.
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
