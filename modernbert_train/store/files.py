"""Reading shards where they lie, a folder or a URL, without a cache: for indexing and verifying."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Result = TypeVar("Result")

INDEX_NAME = "index.json"


class ShardFiles:
    """The files below a folder or URL.

    What fsspec opens (a folder, hf://, and more with its extensions) is listed and read in part; any other store is
    read through mosaicml-streaming's downloaders (s3://, gs://, oci://, azure://), whole files only, each deleted
    once it is read.
    """

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        try:
            self._fs, self._base = fsspec.core.url_to_fs(self.root)
        except (ImportError, ValueError):  # no extension for this kind of store
            self._fs, self._base = None, ""
        self.folder = Path(self._base) if self._fs and "file" in self._fs.protocol else None  # if it is one

    @property
    def reads_parts(self) -> bool:
        """Whether a part of a file can be had without the whole."""
        return self._fs is not None

    def exists(self, name: str) -> bool:
        """Whether there is such a file; where a store cannot be asked, whether it can be downloaded."""
        if self._fs is not None:
            return bool(self._reading(name, lambda: self._fs.exists(f"{self._base}/{name}")))
        try:
            self.read(name)
        except FileNotFoundError:
            return False
        return True

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> Bytes:
        """Bytes [start, stop) of a file.

        FileNotFoundError: there is none. ConnectionError: the store does not answer.
        """
        if self.folder is not None:
            file = self.folder / name
            return (np.memmap(file, np.uint8, "r") if file.stat().st_size else np.empty(0, np.uint8))[
                start:stop
            ]
        if self._fs is not None:
            path = f"{self._base}/{name}"
            return np.frombuffer(
                self._reading(name, lambda: self._fs.cat_file(path, start=start, end=stop)), np.uint8
            )
        return self._reading(name, lambda: self._download(name))[start:stop]

    def size(self, name: str) -> int:
        """Bytes of a file. FileNotFoundError: there is none."""
        if self.folder is not None:
            return (self.folder / name).stat().st_size
        if self._fs is not None:
            return int(self._reading(name, lambda: self._fs.size(f"{self._base}/{name}")))
        return len(self.read(name))

    def indexes(self, folder: str) -> list[str]:
        """Names of all index.json below a folder; none where a store cannot be listed."""
        if self._fs is None:
            return []
        base = f"{self._base}/{folder}".rstrip("/")
        found = self._reading(folder, lambda: self._fs.glob(f"{base}/**/{INDEX_NAME}"))
        return sorted(name.removeprefix(self._base).lstrip("/") for name in found)

    def json(self, name: str) -> Any:
        """The content of a JSON file. ValueError: it is none."""
        try:
            return json.loads(bytes(self.read(name)))
        except ValueError as error:
            raise ValueError(f"{self.root}/{name}: not valid JSON ({error})") from error

    def read_shard(self, info: dict[str, Any]) -> Bytes:
        """All bytes of a shard, decompressed if need be; `info` is its entry in index.json.

        FileNotFoundError: it is missing. ValueError: it does not have the size that the index states.
        """
        raw, compressed = info["raw_data"], info["zip_data"]
        if compressed and not (self.folder is not None and (self.folder / raw["basename"]).is_file()):
            from streaming.base.compression import decompress  # imports torch

            packed = self.read(compressed["basename"])
            try:
                data = np.frombuffer(decompress(info["compression"], bytes(packed)), np.uint8)
            except Exception as error:  # every algorithm has its own
                raise ValueError(f"cannot be decompressed ({error})") from error
        else:
            data = self.read(raw["basename"])
        if len(data) != raw["bytes"]:
            raise ValueError(f"{len(data):,} bytes, index.json says {raw['bytes']:,} (truncated or damaged)")
        return data

    def _download(self, name: str) -> Bytes:
        from streaming.base.storage.download import CloudDownloader  # imports torch

        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "file"
            CloudDownloader.direct_download(f"{self.root}/{name}", str(file))
            return np.fromfile(file, np.uint8)

    def _reading(self, name: str, read: Callable[[], Result]) -> Result:
        try:
            return read()
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{self.root}/{name} does not exist") from error
        except Exception as error:  # every kind of store has its own
            raise ConnectionError(
                f"store: {self.root}/{name} cannot be read ({type(error).__name__}: {error}); check its address, "
                "the network and your access to it (HF_TOKEN for hf://, AWS credentials for s3://)"
            ) from error
