"""Reads and writes MDS shards, the format of mosaicml-streaming, with numpy alone.

A shard of a token store holds blocks of documents, one block per sample:

    shard    uint32 number of samples; uint32 offset of every sample, and of the end; a JSON header; the samples
    sample   uint32 size of each of the columns `input_ids` and `lengths`; both arrays
    array    1 byte (number of dimensions, here 1) << 2 | log2 of the bytes of the shape; the shape; the values

`index.json` lists the shards of a folder. Shards that other programs wrote have other columns: see external.py.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from modernbert_train.common.files import write_atomically
from modernbert_train.store.fields import REMEDY, Fields, is_whole, read_json
from modernbert_train.store.names import NAME_RULE, is_name

INDEX_NAME = "index.json"
IDS_COLUMN, LENGTHS_COLUMN = "input_ids", "lengths"
# The header of a shard has an offset of 4 bytes for each sample.
_MOST_BYTES, _MOST_SAMPLES = (1 << 32) - 1, (1 << 30) - 1


@dataclass(frozen=True)
class ShardFile:
    """A file of a shard, as index.json describes it."""

    basename: str
    bytes: int
    hashes: Mapping[str, str]  # algorithm -> hexadecimal digest

    @classmethod
    def from_fields(cls, fields: Fields) -> ShardFile:
        """Parse `raw_data` or `zip_data` of an entry of index.json; raise ValueError for a wrong field."""
        if not is_name(fields.value("basename")):
            raise fields.refuse("basename", NAME_RULE)
        hashes = fields.fields("hashes")
        return cls(
            basename=fields.text("basename"),
            bytes=fields.whole("bytes", most=_MOST_BYTES),
            hashes={algorithm: hashes.text(algorithm) for algorithm in hashes},
        )


@dataclass(frozen=True)
class Shard:
    """An entry of index.json."""

    num_samples: int
    raw: ShardFile
    compressed: ShardFile | None
    compression: str | None
    column_names: tuple[str, ...]
    column_encodings: tuple[str, ...]
    # Bytes of each column in a sample; None where they differ from sample to sample.
    column_sizes: tuple[int | None, ...]
    # The size at which the writer began the next shard, if it had one.
    size_limit: int | str | None = None

    @classmethod
    def from_fields(cls, fields: Fields) -> Shard:
        """Parse an entry of index.json.

        Args:
            fields: as index.json holds them.

        Returns:
            The shard.

        Raises:
            ValueError: A field is missing or wrong, or the shard is not of format MDS, version 2.
        """
        if fields.value("format") != "mds":
            raise fields.refuse("format", "format mds, version 2")
        if not is_whole(fields.value("version"), 2, 2):
            raise fields.refuse("version", "format mds, version 2")
        names, sizes = fields.texts("column_names"), fields.value("column_sizes")
        encodings = fields.texts("column_encodings")
        if (
            not isinstance(sizes, list)
            or not all(size is None or is_whole(size, most=_MOST_BYTES) for size in sizes)
            or not len(names) == len(encodings) == len(sizes) == len(set(names))
        ):
            raise fields.refuse("column_sizes", "a number of bytes or null for each of column_names")
        is_compressed = "zip_data" in fields
        return cls(
            num_samples=fields.whole("samples", most=_MOST_SAMPLES),
            raw=ShardFile.from_fields(fields.fields("raw_data")),
            compressed=ShardFile.from_fields(fields.fields("zip_data")) if is_compressed else None,
            compression=fields.text("compression") if is_compressed else None,
            column_names=names,
            column_encodings=encodings,
            column_sizes=tuple(sizes),
            size_limit=fields.value("size_limit"),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the entry as index.json holds it."""
        return {
            "version": 2,
            "format": "mds",
            "samples": self.num_samples,
            "raw_data": asdict(self.raw),
            "zip_data": asdict(self.compressed) if self.compressed else None,
            "compression": self.compression,
            "hashes": list(self.raw.hashes),
            "size_limit": self.size_limit,
            "column_names": list(self.column_names),
            "column_encodings": list(self.column_encodings),
            "column_sizes": list(self.column_sizes),
        }

    def below(self, folder: str) -> Shard:
        """Return the shard with file names that count from the parent of `folder`."""
        if not folder:
            return self
        return replace(
            self,
            raw=replace(self.raw, basename=f"{folder}/{self.raw.basename}"),
            compressed=self.compressed
            and replace(self.compressed, basename=f"{folder}/{self.compressed.basename}"),
        )

    @property
    def max_bytes(self) -> int:
        """Bytes on disk while the shard is being decompressed, when both of its files exist."""
        return self.raw.bytes + (self.compressed.bytes if self.compressed else 0)

    @property
    def ids_dtype(self) -> str:
        """The dtype of `input_ids` in a shard of blocks."""
        return self.column_encodings[self.column_names.index(IDS_COLUMN)].removeprefix("ndarray:")


def read_shards(folder: Path) -> list[Shard]:
    """Read the entries of the index.json of a folder.

    Args:
        folder: of a split.

    Returns:
        The shards, in order.

    Raises:
        ValueError: The index is missing or broken.
    """
    return parse_shards(read_json(folder / INDEX_NAME), str(folder / INDEX_NAME))


def parse_shards(index: Fields, file: str) -> list[Shard]:
    """Return the entries of an index.json, see `read_shards`."""
    shards = [Shard.from_fields(entry) for entry in index.list_of_fields("shards")]
    names = Counter(part.basename for shard in shards for part in (shard.raw, shard.compressed) if part)
    if names and (most := names.most_common(1)[0])[1] > 1:
        raise ValueError(f"store: {file} lists the file {most[0]} {most[1]} times; {REMEDY}")
    return shards


def count_unhashed(shards: Sequence[Shard]) -> int:
    """Return the number of shards for which index.json has no hash: damage that keeps their size may not be found."""
    return sum(not (shard.compressed or shard.raw).hashes for shard in shards)


def write_shards(folder: Path, shards: Sequence[Shard]) -> None:
    """Write the index.json of a folder of shards."""
    content = {"version": 2, "shards": [shard.to_json() for shard in shards]}
    write_atomically(folder / INDEX_NAME, json.dumps(content, sort_keys=True).encode())


def read_block(file: Path, number: int, dtype: str) -> np.ndarray:
    """Read one block of a shard, by its byte range alone.

    Args:
        file: an uncompressed shard.
        number: of the block within the shard.
        dtype: of the ids, see `Shard.ids_dtype`.

    Returns:
        The ids: uint16 or uint32 [tokens], not writable.

    Raises:
        OSError: The file does not exist or cannot be read.
        ValueError: The bytes are not those of such a block.
    """
    shard = os.open(file, os.O_RDONLY)
    try:
        start, end = np.frombuffer(os.pread(shard, 8, 4 * (number + 1)), "<u4", 2).tolist()
        if not start <= end <= os.fstat(shard).st_size:
            raise ValueError("its header is damaged")
        sample = os.pread(shard, end - start, start)
    finally:
        os.close(shard)
    return decode_block(sample, dtype)[0]


def read_samples(file: Path) -> list[bytes]:
    """Return all samples of a shard, undecoded."""
    return split_samples(file.read_bytes())


def split_samples(data: bytes) -> list[bytes]:
    """Return all samples of the bytes of a shard, undecoded."""
    num_samples = int(np.frombuffer(data, "<u4", 1)[0])
    if 4 * (num_samples + 2) > len(data):
        raise ValueError("its header is damaged")
    offsets = np.frombuffer(data, "<u4", num_samples + 1, offset=4).tolist()
    return [data[start:end] for start, end in pairwise(offsets)]


def decode_block(sample: bytes, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return `input_ids` [tokens] of this dtype and `lengths` (uint32 [documents]) of a sample, without a copy."""
    ids_bytes = int(np.frombuffer(sample, "<u4", 1)[0])
    arrays = memoryview(sample)[8:]
    return _decode_array(arrays[:ids_bytes], dtype), _decode_array(arrays[ids_bytes:], "uint32")


def _decode_array(data: memoryview, dtype: str) -> np.ndarray:
    if not data:
        raise ValueError("it ends within a sample")
    shape_bytes = 1 << (data[0] & 3)
    return np.frombuffer(data, dtype, offset=1 + shape_bytes)


def encode_block(ids: Sequence[np.ndarray], lengths: np.ndarray) -> bytes:
    """Encode a block as a sample, the inverse of `decode_block`.

    Args:
        ids: arrays that give the ids of the block if joined; the sample is the only copy that is made of them.
        lengths: uint32 [documents].

    Returns:
        The sample.
    """
    columns: list[list[bytes | memoryview]] = [
        [_array_head(sum(array.size for array in arrays)), *(array.view(np.uint8).data for array in arrays)]
        for arrays in (ids, [lengths])
    ]
    sizes = [sum(map(len, column)) for column in columns]
    return b"".join([np.array(sizes, np.uint32).tobytes(), *columns[0], *columns[1]])


def _array_head(num_values: int) -> bytes:
    shape_bytes = next(size for size in (1, 2, 4, 8) if num_values < 1 << 8 * size)
    return bytes([1 << 2 | shape_bytes.bit_length() - 1]) + num_values.to_bytes(shape_bytes, "little")


def shard_name(number: int) -> str:
    """Return the file name of a shard, as streaming's MDSWriter names it."""
    return f"shard.{number:05}.mds"


class ShardFormat:
    """What the shards of one split share: the dtype of the ids and the maximum size of a shard.

    Args:
        dtype: of the ids, "uint16" or "uint32".
        shard_bytes: size that only a shard of a single block may exceed.
    """

    def __init__(self, dtype: str, shard_bytes: int) -> None:
        self.dtype = dtype
        self.shard_bytes = shard_bytes
        entry = self.shard(number=0, num_samples=0, num_bytes=0, sha1="").to_json()
        config = {
            key: value for key, value in entry.items() if key not in ("samples", "raw_data", "zip_data")
        }
        self._header = json.dumps(config, sort_keys=True).encode()
        # Of a shard without samples.
        self.empty_bytes = 8 + len(self._header)

    def write(self, folder: Path, number: int, samples: Sequence[bytes]) -> Shard:
        """Write shard `number` of a folder atomically and return its entry in index.json."""
        sizes = [len(sample) for sample in samples]
        offsets = np.array([0, *sizes]).cumsum().astype(np.uint32)
        offsets += np.uint32(4 + offsets.nbytes + len(self._header))
        data = b"".join([np.uint32(len(samples)).tobytes(), offsets.tobytes(), self._header, *samples])
        write_atomically(folder / shard_name(number), data)
        return self.shard(number, len(samples), len(data), digest("sha1", data))

    def shard(self, number: int, num_samples: int, num_bytes: int, sha1: str) -> Shard:
        """Return the entry of a shard in index.json."""
        return Shard(
            num_samples=num_samples,
            raw=ShardFile(shard_name(number), num_bytes, {"sha1": sha1}),
            compressed=None,
            compression=None,
            column_names=(IDS_COLUMN, LENGTHS_COLUMN),
            column_encodings=(f"ndarray:{self.dtype}", "ndarray:uint32"),
            column_sizes=(None, None),
            size_limit=self.shard_bytes,
        )


def digest(algorithm: str, data: bytes | memoryview) -> str:
    """Return the hexadecimal digest of bytes, see `new_hash`."""
    state = new_hash(algorithm)
    state.update(data)
    return state.hexdigest()


def new_hash(algorithm: str) -> Any:
    """Return a new state of an algorithm that index.json may name.

    Args:
        algorithm: of hashlib or xxhash.

    Returns:
        An object with the methods of those of hashlib.

    Raises:
        ValueError: The algorithm is unknown.
    """
    if algorithm in xxhash.algorithms_available:
        return getattr(xxhash, algorithm)()
    if algorithm in hashlib.algorithms_available and not algorithm.startswith("shake_"):
        return hashlib.new(algorithm)
    raise ValueError(f"index.json has a hash of an unknown algorithm, {algorithm!r}")


def decompress(shard: Shard, data: bytes) -> bytes:
    """Decompress the bytes of the compressed file of a shard.

    Args:
        shard: to which the file belongs.
        data: of the file.

    Returns:
        The bytes of the uncompressed file.

    Raises:
        ValueError: The data cannot be decompressed.
    """
    from streaming.base.compression import decompress as streaming_decompress  # takes seconds to import

    try:
        return streaming_decompress(shard.compression, data)
    except Exception as error:  # each algorithm raises its own type, MemoryError included
        raise ValueError(f"cannot be decompressed ({error})") from error
