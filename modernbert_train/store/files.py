"""Reading shards in place, from a folder or a URL, without the cache: for indexing, inspecting and verifying."""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from modernbert_train.common.redaction import check_no_secret
from modernbert_train.common.types import Bytes
from modernbert_train.store.download import Downloads, MissingFileError, RetryPolicy, is_url, retry
from modernbert_train.store.fields import Fields, parse_json
from modernbert_train.store.mds import INDEX_NAME, Shard, decompress
from modernbert_train.store.names import inside

Result = TypeVar("Result")


class ShardFiles:
    """The files below a folder or URL.

    A URL that fsspec can open (hf://, and others with its extensions) is listed and read in byte ranges: an index of
    external shards needs only their headers. From all others (s3://, gs://, oci://, azure://) whole files are
    downloaded as for training, and deleted once they are read. Retries, credentials and errors are those of download.py
    either way.

    Args:
        root: a folder or URL.
        policy: of each request.
    """

    def __init__(self, root: str, policy: RetryPolicy | None = None) -> None:
        self.root = root.rstrip("/")
        self._policy = policy or RetryPolicy()
        self._downloads = Downloads(self._policy)
        self._fs: Any = None
        # The root, where it is a folder of this machine.
        self.folder: Path | None = None if is_url(self.root) else Path(self.root)
        if self.folder is None:
            self._open_url()

    def _open_url(self) -> None:
        check_no_secret("store", self.root)
        import fsspec  # not needed for a folder

        try:
            self._fs, self._base = fsspec.core.url_to_fs(self.root)
        except (ImportError, ValueError):  # no extension for this scheme
            return
        if "file" in self._fs.protocol:
            self.folder = Path(self._base)

    @property
    def reads_parts(self) -> bool:
        """Whether a byte range can be read without the whole file."""
        return self.folder is not None or self._fs is not None

    def exists(self, name: str) -> bool:
        """Check whether a file exists; where only whole files can be downloaded, download it."""
        if self.folder is not None:
            return inside(self.folder, name).exists()
        if self._fs is not None:
            return bool(self._request(name, lambda: self._fs.exists(f"{self._base}/{name}")))
        try:
            self.read(name)
        except FileNotFoundError:
            return False
        return True

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> Bytes:
        """Read bytes of a file.

        Args:
            name: of the file, below the root.
            start: first byte.
            stop: byte after the last.

        Returns:
            The bytes, fewer where the file ends earlier.

        Raises:
            FileNotFoundError: There is no such file.
            ConnectionError: The store does not answer.
        """
        if self.folder is not None:
            return _read_part(inside(self.folder, name), start or 0, stop)
        if self._fs is not None:
            path = f"{self._base}/{name}"
            return np.frombuffer(
                self._request(name, lambda: self._fs.cat_file(path, start=start, end=stop)), np.uint8
            )
        return self._download(name)[start:stop]

    def size(self, name: str) -> int:
        """Return the bytes of a file; raises FileNotFoundError and ConnectionError like `read`."""
        if self.folder is not None:
            return inside(self.folder, name).stat().st_size
        if self._fs is not None:
            return int(self._request(name, lambda: self._fs.size(f"{self._base}/{name}")))
        return len(self.read(name))

    def indexes(self, folder: str) -> list[str]:
        """Return the names of all index.json below a folder; none where a store cannot be listed."""
        if self.folder is not None:
            found = (self.folder / folder).rglob(INDEX_NAME)
            return sorted(path.relative_to(self.folder).as_posix() for path in found)
        if self._fs is None:
            return []
        base = f"{self._base}/{folder}".rstrip("/")
        names = self._request(folder, lambda: self._fs.glob(f"{base}/**/{INDEX_NAME}"))
        return sorted(name.removeprefix(self._base).lstrip("/") for name in names)

    def json(self, name: str) -> Fields:
        """Return the fields of a JSON file; raises ValueError if it is not one."""
        return parse_json(bytes(self.read(name)), f"{self.root}/{name}")

    def read_shard(self, shard: Shard) -> Bytes:
        """Read all bytes of a shard, decompressed if necessary.

        Args:
            shard: its entry in index.json.

        Returns:
            The bytes of the uncompressed file.

        Raises:
            FileNotFoundError: The file is missing.
            ConnectionError: The store does not answer.
            ValueError: It cannot be decompressed, or has another size than the index states.
        """
        raw = shard.raw
        if shard.compressed and not (self.folder is not None and self.exists(raw.basename)):
            packed = bytes(self.read(shard.compressed.basename))
            data = np.frombuffer(decompress(shard, packed), np.uint8)
        elif self.folder is not None and (found_bytes := self.size(raw.basename)) != raw.bytes:
            raise ValueError(f"{found_bytes:,} bytes, index.json says {raw.bytes:,} (truncated or damaged)")
        else:
            data = self.read(raw.basename)
        if len(data) != raw.bytes:
            raise ValueError(f"{len(data):,} bytes, index.json says {raw.bytes:,} (truncated or damaged)")
        return data

    def _download(self, name: str) -> Bytes:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "file"
            url = f"{self.root}/{name}"
            workplace = Path(folder) / "download"
            self._translated(name, lambda: self._downloads.fetch(url, file, lambda _: None, workplace))
            return np.fromfile(file, np.uint8)

    def _request(self, name: str, request: Callable[[], Result]) -> Result:
        url = f"{self.root}/{name}"
        return self._translated(name, lambda: retry(url, lambda attempt: request(), self._policy))

    def _translated(self, name: str, request: Callable[[], Result]) -> Result:
        """Keep a store that does not answer apart from a damaged one, which is a ValueError."""
        try:
            return request()
        except MissingFileError as error:
            raise FileNotFoundError(f"{self.root}/{name} does not exist") from error
        except ValueError as error:
            raise ConnectionError(str(error)) from error


def _read_part(file: Path, start: int, stop: int | None) -> Bytes:
    """Return bytes of a file; they are not mapped, because a file may be shortened meanwhile."""
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{file} is not a regular file")
    stop = status.st_size if stop is None else min(stop, status.st_size)
    return np.fromfile(file, np.uint8, max(0, stop - start), offset=start)
