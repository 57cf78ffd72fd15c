"""Token blocks -> MDS shards, byte for byte as `streaming.MDSWriter` writes them.

Our own, for three reasons: importing streaming imports torch, which costs every worker seconds and hundreds of
megabytes; shards are joined when parts are merged; and what is on disk is on disk (fsync) before a part counts
as done. A test compares the bytes with MDSWriter's.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

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
        write_durably(folder / shard_name(number), data)
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
    write_durably(folder / INDEX_NAME, json.dumps({"version": 2, "shards": shards}, sort_keys=True).encode())


def read_index(folder: Path) -> list[dict[str, Any]]:
    """Entries of the shards of a folder."""
    shards: list[dict[str, Any]] = json.loads((folder / INDEX_NAME).read_bytes())["shards"]
    return shards


def write_durably(file: Path, data: bytes) -> None:
    """Write a file so that it is either whole or not there, whatever happens."""
    unfinished = file.with_name(file.name + ".tmp")
    with open(unfinished, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    unfinished.rename(file)
