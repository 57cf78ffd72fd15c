"""Reads whole MDS shards with numpy alone, to tell whether they still are what was written."""

import hashlib
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from modernbert_train.common.files import write_atomically
from modernbert_train.store.external import (
    Samples,
    content_ids,
    content_lengths,
    layout_of,
    sample_offsets,
    spans_of,
)
from modernbert_train.store.files import ShardFiles
from modernbert_train.store.tokenizer import TokenizerInfo


def shard_problem(
    file: Path, info: dict[str, Any], dtype: str, vocab_size: int, blocks: np.ndarray, lengths: np.ndarray
) -> str | None:
    """The first thing wrong with one shard, or None: its size, hash, or contents other than the sidecars'.

    blocks: int64 [num_blocks, 2] and lengths: uint32 [num_documents] are the sidecars' rows of this shard;
    info is the shard's "raw_data" in index.json; dtype is that of the ids.
    """
    if not file.is_file():
        return "missing"
    data = file.read_bytes()
    if len(data) != info["bytes"]:
        return f"{len(data):,} bytes, index.json says {info['bytes']:,} (truncated or damaged)"
    if hashlib.sha1(data).hexdigest() != info["hashes"]["sha1"]:
        return "damaged (sha1 differs from index.json's)"
    # MDS: uint32 number of samples, uint32 offset of each and of the end, a JSON header, the samples.
    num_blocks = int(np.frombuffer(data, np.uint32, 1)[0])
    if num_blocks != len(blocks):
        return f"{num_blocks} blocks, blocks.npy says {len(blocks)}"
    offsets = np.frombuffer(data, np.uint32, num_blocks + 1, offset=4)
    first = 0
    for block in range(num_blocks):
        ids, block_lengths = _decode_block(data[offsets[block] : offsets[block + 1]], dtype)
        num_documents, num_tokens = blocks[block]
        stated_lengths = lengths[first : first + num_documents]
        if len(ids) != num_tokens or not np.array_equal(block_lengths, stated_lengths):
            return (
                f"block {block}: {len(block_lengths)} documents, {len(ids)} tokens; not what the sidecars say"
            )
        if ids.max() >= vocab_size:
            return f"block {block} has id {ids.max()}, the vocabulary ends at {vocab_size}"
        first += num_documents
    return None


def foreign_shard_problem(
    files: ShardFiles, info: dict[str, Any], samples: Samples, lengths: np.ndarray, tokenizer: TokenizerInfo
) -> str | None:
    """The first thing wrong with one shard that others wrote, or None; as `shard_problem`.

    `info` is its entry in index.json; hashes are compared where that states any.
    """
    from streaming.base.hashing import get_hash  # all that such a store may have; imports torch

    try:
        data = files.read_shard(info)
        for algorithm, stated in info["raw_data"]["hashes"].items():
            if get_hash(algorithm, bytes(data)) != stated:
                return f"damaged ({algorithm} differs from index.json's)"
        layout = layout_of(info["column_names"], info["column_encodings"], info["column_sizes"], samples)
        spans = spans_of(layout, data, *sample_offsets(data, info["samples"], len(data)))
        found = content_lengths(data, spans, samples, tokenizer)
        if not np.array_equal(found, lengths):
            document = int(np.flatnonzero(found != lengths)[0])
            return f"document {document}: {found[document]} tokens, lengths.npy says {lengths[document]}"
        content_ids(data, spans, samples, lengths)
    except FileNotFoundError:
        return "missing"
    except ValueError as error:
        return str(error)
    return None


def shard_header_problem(files: ShardFiles, info: dict[str, Any]) -> str | None:
    """What is wrong with a shard by its size and its header alone, or None: a few bytes of it are read."""
    compressed = info["zip_data"]
    raw, num_samples = info["raw_data"], info["samples"]
    stored = raw if compressed is None or files.exists(raw["basename"]) else compressed
    try:
        found_bytes = files.size(stored["basename"])
    except FileNotFoundError:
        return "missing"
    if found_bytes != stored["bytes"]:
        return f"{found_bytes:,} bytes, index.json says {stored['bytes']:,} (truncated or damaged)"
    if stored is raw and num_samples:
        first = files.read(raw["basename"], 0, 4)
        last = files.read(raw["basename"], 4 * (num_samples + 1), 4 * (num_samples + 2))
        if [*first.view("<u4"), *last.view("<u4")] != [num_samples, found_bytes]:
            return "its header is not that of the shard in index.json (damaged, or another shard)"
    return None


def read_document(
    files: ShardFiles, info: dict[str, Any], samples: Samples, number: int, length: int
) -> np.ndarray:
    """Content ids [length] of one document of a shard that others wrote; no more is read than need be."""
    layout = layout_of(info["column_names"], info["column_encodings"], info["column_sizes"], samples)
    if info["zip_data"]:
        data = files.read_shard(info)
        starts, ends = sample_offsets(data, info["samples"], len(data))
    else:
        name = info["raw_data"]["basename"]
        offsets = files.read(name, 4 * (number + 1), 4 * (number + 3)).view("<u4").astype(np.int64)
        data = files.read(name, int(offsets[0]), int(offsets[1]))
        starts, ends, number = offsets[:1] - offsets[0], offsets[1:] - offsets[0], 0
    spans = spans_of(layout, data, starts[number : number + 1], ends[number : number + 1])
    return content_ids(data, spans, samples, np.array([length]))


def _decode_block(sample: bytes, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """`input_ids` [tokens], `lengths` [documents] of an MDS sample: both sizes (uint32), then both arrays."""
    ids_bytes = int(np.frombuffer(sample, np.uint32, 1)[0])
    return _decode_array(sample[8 : 8 + ids_bytes], dtype), _decode_array(sample[8 + ids_bytes :], "uint32")


def _decode_array(data: bytes, dtype: str) -> np.ndarray:
    shape_bytes = 1 << (
        data[0] & 3
    )  # first byte: (number of dimensions, here 1) << 2 | log2 of shape's bytes
    return np.frombuffer(data, dtype, offset=1 + shape_bytes)


INDEX_NAME = "index.json"


def shard_name(number: int) -> str:
    """File name of a shard, as MDSWriter names it."""
    return f"shard.{number:05}.mds"


def encode_block(ids: np.ndarray, lengths: np.ndarray) -> bytes:
    """An MDS sample: sizes of both columns (uint32), then both arrays, each with its shape in front."""
    columns = [_encode_array(ids), _encode_array(lengths)]
    return np.array([len(column) for column in columns], np.uint32).tobytes() + b"".join(columns)


def _encode_array(array: np.ndarray) -> bytes:
    shape_bytes = next(size for size in (1, 2, 4, 8) if len(array) < 1 << 8 * size)
    # number of dimensions (1) << 2 | log2 of the bytes of the shape
    head = bytes([1 << 2 | shape_bytes.bit_length() - 1]) + len(array).to_bytes(shape_bytes, "little")
    return head + array.tobytes()


class ShardFormat:
    """What the shards of one split have in common: the dtype of the ids and the size at which they are cut."""

    def __init__(self, dtype: str, shard_bytes: int) -> None:
        self.shard_bytes = shard_bytes
        self.config: dict[str, Any] = {
            "version": 2,
            "format": "mds",
            "compression": None,
            "hashes": ["sha1"],  # because readers check it with the standard library alone
            "size_limit": shard_bytes,
            "column_names": ["input_ids", "lengths"],
            "column_encodings": [f"ndarray:{dtype}", "ndarray:uint32"],
            "column_sizes": [None, None],
        }
        self._header = json.dumps(self.config, sort_keys=True).encode()
        self.empty_bytes = 8 + len(self._header)  # of a shard without samples

    def write(self, folder: Path, number: int, samples: Sequence[bytes]) -> dict[str, Any]:
        """Write shard `number` of `folder` durably and under its name at once; its entry in index.json."""
        sizes = [len(sample) for sample in samples]
        offsets = np.array([0, *sizes]).cumsum().astype(np.uint32)
        offsets += np.uint32(4 + offsets.nbytes + len(self._header))
        data = b"".join([np.uint32(len(samples)).tobytes(), offsets.tobytes(), self._header, *samples])
        write_atomically(folder / shard_name(number), data)
        return self.entry(number, len(samples), len(data), hashlib.sha1(data).hexdigest())

    def entry(self, number: int, num_samples: int, num_bytes: int, sha1: str) -> dict[str, Any]:
        """Entry of a shard in index.json."""
        raw_data = {"basename": shard_name(number), "bytes": num_bytes, "hashes": {"sha1": sha1}}
        return {"samples": num_samples, "raw_data": raw_data, "zip_data": None, **self.config}


def read_samples(file: Path) -> list[bytes]:
    """All samples of a shard, undecoded."""
    data = file.read_bytes()
    num_samples = int(np.frombuffer(data, np.uint32, 1)[0])
    offsets = np.frombuffer(data, np.uint32, num_samples + 1, offset=4).tolist()
    return [data[start:end] for start, end in pairwise(offsets)]


def write_index(folder: Path, shards: list[dict[str, Any]]) -> None:
    """Write the index.json of a folder of shards."""
    write_atomically(folder / INDEX_NAME, json.dumps({"version": 2, "shards": shards}, sort_keys=True))


def read_index(folder: Path) -> list[dict[str, Any]]:
    """Entries of the shards of a folder."""
    shards: list[dict[str, Any]] = json.loads((folder / INDEX_NAME).read_bytes())["shards"]
    return shards
