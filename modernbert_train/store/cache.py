"""The cache: a folder of this machine in which what was read of stores elsewhere is kept.

    CACHE/stores/NAME-HASH/VERSION/     manifest.json, tokenizer and sidecars of a store (remote.py)
    CACHE/shards/NAME-HASH/shard.*.mds  of a split
    CACHE/incoming/                     what is on its way, and the claims of those who fetch it

The files are all there is to it: a file under its own name is whole, for it came there by a rename after its hash was
checked. So any number of processes, and of runs, share a folder, and one that was killed leaves nothing that another
would have to understand: its claims end with it (the kernel gives its locks back), and the next one to come by removes
what it had on its way. Streaming's own dataset keeps the state of its cache in shared memory instead; there a failed
download leaves a shard that others wait for without end, and a damaged one stays and is read by the next.

Two times of a shard's file tell its story: it was last found to be as written at `mtime`, and last read at `atime`.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from modernbert_train.store.download import Check, Downloads, Progress, RetryPolicy, expect

log = logging.getLogger(__name__)

_TOUCH_SECONDS = 1.0  # a shard that is read again and again is touched so often
_FULL_SECONDS = 0.05  # pause when all that is cached is still on its way


class Cache:
    """A folder of shards and sidecars that stay below a limit.

    Args:
        folder: made where it is missing.
        limit_bytes: of all shards, those on their way included; None: no limit.
        patience: with each download.

    ValueError: the folder cannot be written to.

    """

    def __init__(self, folder: Path, limit_bytes: int | None, patience: RetryPolicy) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._downloads = Downloads(patience)
        self._incoming = folder / "incoming"
        self._opened = time.time()
        with self._writable():
            self._incoming.mkdir(parents=True, exist_ok=True)
            with self._lock(self._incoming / "room.lock"):
                self._bytes_on_their_way()

    def path_of(self, kind: str, url: str, version: str = "") -> Path:
        """The folder for what a URL holds ("stores", "shards"), of a version."""
        place = urlparse(url)
        readable = re.sub(r"[^A-Za-z0-9.]+", "-", f"{place.netloc}{place.path}").strip("-")[-80:]
        digest = hashlib.sha256(f"{url}\n{version}".encode()).hexdigest()[:12]
        return self.folder / kind / f"{readable}-{digest}"

    def fetch(
        self,
        url: str,
        file: Path,
        check: Check,
        num_bytes: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Bring `url` to `file` unless that is there, of `num_bytes` if they are known; who else wants it waits."""
        with self._writable(), self._claim(file) as (_, workplace):
            if not exists_with_size(file, num_bytes):
                self._arrive(url, file, check, workplace, progress)

    def refresh(self, url: str, file: Path, check: Check) -> bytes:
        """What `url` holds now, or held after this was called: of those who ask at the same time, one fetches it."""
        asked = time.time()
        with self._writable(), self._claim(file) as (_, workplace):
            if not (file.exists() and file.stat().st_mtime > asked):
                self._arrive(url, file, check, workplace, None)
            return file.read_bytes()

    def keep(self, content: bytes, file: Path) -> None:
        """Write a file unless it is there."""
        with self._writable(), self._claim(file) as (_, workplace):
            if not exists_with_size(file, len(content)):
                for folder in (workplace, file.parent):
                    folder.mkdir(parents=True, exist_ok=True)
                (workplace / file.name).write_bytes(content)
                (workplace / file.name).replace(file)

    def hold(self, remote: str, shard: Any, file: Path) -> None:
        """See to it that a shard is there, as it was written, and not the next to make room.

        Args:
            remote: URL of the folder of the shard.
            shard: its reader (of streaming.base.format), which says what it must be.
            file: where it belongs.

        ValueError: it cannot be had.

        """
        with self._writable():
            try:
                status = file.stat()
            except FileNotFoundError:
                self._fetch_shard(remote, shard, file)
                return
            if status.st_mtime < self._opened:
                self._inspect(shard, file)
            elif time.time() - status.st_atime > _TOUCH_SECONDS:
                _touch(file, status.st_mtime)

    def _inspect(self, shard: Any, file: Path) -> None:
        """Check a shard that an earlier run has left, once for this one; what is damaged goes."""
        with self._claim(file):
            try:
                if file.stat().st_mtime >= self._opened:
                    return
                problem = _expected(shard.raw_data)(file)
                if problem is None:
                    _touch(file, time.time())
                else:
                    log.warning("%s is damaged (%s): it is downloaded again", file, problem)
                    file.unlink()
            except FileNotFoundError:  # it has made room: whoever reads it next fetches it
                return

    def _fetch_shard(self, remote: str, shard: Any, file: Path) -> None:
        compressed = shard.zip_data
        with self._claim(file) as (claim, workplace):
            if file.exists():
                return
            self._make_room(claim, shard.get_max_size(), file)
            sent = compressed or shard.raw_data
            arriving = workplace / sent.basename if compressed else file
            self._arrive(f"{remote}/{sent.basename}", arriving, _expected(sent), workplace / "download", None)
            if compressed:
                file.parent.mkdir(parents=True, exist_ok=True)
                _decompress(shard, arriving, workplace / shard.raw_data.basename)
                (workplace / shard.raw_data.basename).replace(file)
            _touch(file, time.time())

    def _arrive(self, url: str, file: Path, check: Check, workplace: Path, progress: Progress | None) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._downloads.fetch(url, file, check, workplace, progress)

    def _make_room(self, claim: int, num_bytes: int, file: Path) -> None:
        """Reserve room for a shard: the size of its claim is what it will take."""
        if self.limit_bytes is None:
            return
        if num_bytes > self.limit_bytes:
            raise ValueError(
                f"data.cache.limit_bytes is {self.limit_bytes:,}, but {file.name} alone takes {num_bytes:,}; raise it"
            )
        while True:
            with self._lock(self._incoming / "room.lock"):
                shards = sorted(self._shards())
                excess = sum(size for _, size, _ in shards) + self._bytes_on_their_way() + num_bytes
                excess -= self.limit_bytes
                for _, size, path in shards:
                    if excess <= 0:
                        break
                    Path(path).unlink(missing_ok=True)
                    excess -= size
                if excess <= 0:
                    os.truncate(claim, num_bytes)
                    return
            time.sleep(_FULL_SECONDS)

    def _shards(self) -> Iterator[tuple[float, int, str]]:
        """When last read, bytes and path of every shard that is there."""
        for place, _, names in os.walk(self.folder / "shards"):
            for name in names:
                path = os.path.join(place, name)
                try:
                    status = os.stat(path)
                except FileNotFoundError:
                    continue
                yield status.st_atime, status.st_size, path

    def _bytes_on_their_way(self) -> int:
        """Of all claims; those of processes that have ended are removed."""
        total = 0
        for entry in _entries(self._incoming):
            if not entry.name.endswith(".claim"):
                continue
            try:
                claim = os.open(entry.path, os.O_RDWR)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                total += os.fstat(claim).st_size
            else:
                if _is(claim, entry.path):
                    shutil.rmtree(entry.path.removesuffix(".claim"), ignore_errors=True)
                    os.unlink(entry.path)
            finally:
                os.close(claim)
        return total

    @contextmanager
    def _claim(self, file: Path) -> Iterator[tuple[int, Path]]:
        """The right to make a file, of one thread of one process at a time; yields the claim and a place to work."""
        name = "--".join(file.relative_to(self.folder).parts)
        path = self._incoming / f"{name}.claim"
        while True:
            claim = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(claim, fcntl.LOCK_EX)
                if _is(claim, path):  # not one that was removed while this waited for it
                    break
            except BaseException:
                os.close(claim)
                raise
            os.close(claim)
        try:
            yield claim, self._incoming / name
        finally:
            shutil.rmtree(self._incoming / name, ignore_errors=True)
            os.unlink(path)
            os.close(claim)

    @contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ValueError(
                f"data.cache.folder is {self.folder}, which cannot be written to ({error}); "
                "name a folder on a disk of this machine that has room"
            ) from error

    @staticmethod
    @contextmanager
    def _lock(path: Path) -> Iterator[None]:
        with open(path, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def exists_with_size(file: Path, num_bytes: int | None) -> bool:
    """Whether a file exists, with so many bytes if they are known."""
    try:
        return num_bytes in (None, file.stat().st_size)
    except FileNotFoundError:
        return False


def _is(opened: int, path: str | Path) -> bool:
    """Whether an open file is the one that is now found by this path."""
    try:
        return os.path.samestat(os.fstat(opened), os.stat(path))
    except FileNotFoundError:
        return False


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _touch(file: Path, checked: float) -> None:
    """Mark as read now, and as checked at a time."""
    try:
        os.utime(file, (time.time(), checked))
    except FileNotFoundError:  # it has made room meanwhile
        return


def _expected(info: Any) -> Check:
    return expect(info.bytes, info.hashes)


def _decompress(shard: Any, compressed: Path, raw: Path) -> None:
    from streaming.base.compression import decompress

    raw.write_bytes(decompress(shard.compression, compressed.read_bytes()))
    problem = _expected(shard.raw_data)(raw)
    if problem:
        raise ValueError(f"store: {compressed.name} holds something else than its index says ({problem})")
