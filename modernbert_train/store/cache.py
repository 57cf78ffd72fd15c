"""The cache: a folder of this machine that keeps what has been read from stores elsewhere.

    CACHE/stores/NAME-HASH/VERSION/     manifest.json, tokenizer and sidecars of a store (opening.py)
    CACHE/shards/NAME-HASH/shard.*.mds  of a split
    CACHE/incoming/                     downloads in progress, and the claims of those who make them

The files are the only state. A file under its final name is complete, for it was renamed to it after its hash was
checked. So any number of processes and runs share a folder, and a killed one leaves nothing that needs repair: the
kernel releases the locks on its claims, and the next process removes its partial downloads. (Streaming's own dataset
keeps the state of its cache in shared memory instead, where a failed download leaves a shard that others wait for
forever, and a damaged shard stays and is read by the next run.)

The times of a shard's file record its use: `mtime` is when it was last verified, `atime` when it was last read.
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
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from urllib.parse import urlparse

from modernbert_train.common.files import is_same_file, locked
from modernbert_train.store.download import Check, Downloads, Progress, RetryPolicy, expect_file
from modernbert_train.store.mds import Shard, decompress

log = logging.getLogger(__name__)

# How often the access time of a shard that is read again and again is updated.
_TOUCH_SECONDS = 1.0
# Pause when the cache is full of downloads in progress.
_FULL_SECONDS = 0.05
_CLAIM_SUFFIX = ".claim"


class Cache:
    """A folder of shards and sidecars, whose shards stay below a size limit.

    Args:
        folder: created if missing.
        limit_bytes: maximum bytes of all shards, downloads in progress included; None: unlimited.
        policy: retries of each download.

    Raises:
        ValueError: The folder cannot be written to.
    """

    def __init__(self, folder: Path, limit_bytes: int | None, policy: RetryPolicy) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._downloads = Downloads(policy)
        self._incoming = folder / "incoming"
        self._opened = time.time()
        with self._writable():
            for name in ("shards", "stores"):
                if (folder / name).exists() and not self._incoming.is_dir():
                    raise ValueError(
                        f"data.cache.folder is {folder}, in which {name}/ exists that no cache made; files in it would "
                        "be deleted to make room: name an empty folder"
                    )
            self._incoming.mkdir(parents=True, exist_ok=True)
            with self._room_lock():
                self._reserved_bytes()

    def path_of(self, kind: str, url: str, version: str = "") -> Path:
        """Return the folder for what a URL holds.

        Args:
            kind: "stores" or "shards".
            url: of a store or a split.
            version: changes with the content.

        Returns:
            A path within the cache, which need not exist.
        """
        parsed = urlparse(url)
        readable = re.sub(r"[^A-Za-z0-9.]+", "-", f"{parsed.netloc}{parsed.path}").strip("-")[-80:]
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
        """Download `url` to `file` unless it exists; concurrent callers share one download.

        Args:
            url: of the file.
            file: within the cache.
            check: of what has arrived.
            num_bytes: size of the file, if known; a file of another size, or that fails the check, is replaced.
            progress: called with the bytes that have arrived.

        Raises:
            ValueError: The file cannot be downloaded, or the cache cannot be written to.
        """
        with self._writable(), self._claim(file) as claim:
            if not (exists_with_size(file, num_bytes) and check(file) is None):
                self._download(url, file, check, claim.workplace, progress)

    def refresh(self, url: str, file: Path, check: Check) -> bytes:
        """Return the current content of `url`; concurrent callers share one download.

        Args:
            url: of the file.
            file: within the cache, replaced unless another caller has just done so.
            check: of what has arrived.

        Returns:
            The content.

        Raises:
            ValueError: The file cannot be downloaded, or the cache cannot be written to.
        """
        asked = time.time()
        with self._writable(), self._claim(file) as claim:
            if not (file.exists() and file.stat().st_mtime > asked):
                self._download(url, file, check, claim.workplace, None)
            return file.read_bytes()

    def put(self, content: bytes, file: Path) -> None:
        """Write a file of the cache unless it exists."""
        with self._writable(), self._claim(file) as claim:
            if not exists_with_size(file, len(content)):
                for folder in (claim.workplace, file.parent):
                    folder.mkdir(parents=True, exist_ok=True)
                (claim.workplace / file.name).write_bytes(content)
                (claim.workplace / file.name).replace(file)

    def ensure(self, remote: str, shard: Shard, file: Path) -> None:
        """Ensure that a shard is present and intact, and mark it as recently used.

        Args:
            remote: URL of the folder of the shard.
            shard: its entry in index.json.
            file: where it belongs in the cache.

        Raises:
            ValueError: The shard cannot be downloaded, or the cache cannot be written to.
        """
        with self._writable():
            try:
                status = file.stat()
            except FileNotFoundError:
                self._fetch_shard(remote, shard, file)
                return
            if status.st_mtime < self._opened:
                self._verify(shard, file)
            elif time.time() - status.st_atime > _TOUCH_SECONDS:
                _touch(file, status.st_mtime)

    def _verify(self, shard: Shard, file: Path) -> None:
        """Check a shard that an earlier run has left, once in this run, and delete it if it is damaged."""
        with self._claim(file):
            try:
                if file.stat().st_mtime >= self._opened:
                    return
                problem = expect_file(shard.raw)(file)
                if problem is None:
                    _touch(file, time.time())
                else:
                    log.warning("%s is damaged (%s): it is downloaded again", file, problem)
                    file.unlink()
            except FileNotFoundError:  # evicted meanwhile: the next read downloads it
                return

    def _fetch_shard(self, remote: str, shard: Shard, file: Path) -> None:
        with self._claim(file) as claim:
            if file.exists():
                return
            self._make_room(claim, shard.max_bytes, file)
            stored = shard.compressed or shard.raw
            arriving = claim.workplace / "compressed" if shard.compressed else file
            url, workplace = f"{remote}/{stored.basename}", claim.workplace / "download"
            self._download(url, arriving, expect_file(stored), workplace, None)
            if shard.compressed:
                file.parent.mkdir(parents=True, exist_ok=True)
                _decompress(shard, arriving, claim.workplace / "raw")
                (claim.workplace / "raw").replace(file)
            _touch(file, time.time())

    def _download(
        self, url: str, file: Path, check: Check, workplace: Path, progress: Progress | None
    ) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._downloads.fetch(url, file, check, workplace, progress)

    def _make_room(self, claim: _Claim, num_bytes: int, file: Path) -> None:
        """Reserve bytes for a shard, evicting the least recently read ones."""
        if self.limit_bytes is None:
            return
        if num_bytes > self.limit_bytes:
            raise ValueError(
                f"data.cache.limit_bytes is {self.limit_bytes:,}, but {file.name} alone takes {num_bytes:,}; raise it"
            )
        while True:
            with self._room_lock():
                shards = sorted(self._shards())
                excess_bytes = sum(size for _, size, _ in shards) + self._reserved_bytes() + num_bytes
                excess_bytes -= self.limit_bytes
                for _, size, path in shards:
                    if excess_bytes <= 0:
                        break
                    Path(path).unlink(missing_ok=True)
                    excess_bytes -= size
                if excess_bytes <= 0:
                    claim.reserve(num_bytes)
                    return
            time.sleep(_FULL_SECONDS)

    def _shards(self) -> Iterator[tuple[float, int, str]]:
        """Yield the access time, bytes and path of every shard in the cache."""
        for place, _, names in os.walk(self.folder / "shards"):
            for name in names:
                path = os.path.join(place, name)
                try:
                    status = os.stat(path)
                except FileNotFoundError:
                    continue
                yield status.st_atime, status.st_size, path

    def _reserved_bytes(self) -> int:
        """Sum up the reservations of all claims, and remove the claims of processes that have ended."""
        total = 0
        for entry in _entries(self._incoming):
            if not entry.name.endswith(_CLAIM_SUFFIX):
                continue
            try:
                claim = _Claim(entry.path)
            except FileNotFoundError:
                continue
            with claim:
                if not claim.lock(wait=False):
                    total += claim.reserved_bytes
                elif claim.is_current:
                    claim.remove()
        return total

    @contextmanager
    def _claim(self, file: Path) -> Iterator[_Claim]:
        """Claim the right to create a file, which one thread of one process has at a time."""
        place = file.relative_to(self.folder)
        digest = hashlib.sha256(str(place).encode()).hexdigest()[:12]
        name = f"{place.parts[0]}--{digest}--{file.name}"
        while True:
            with _Claim(f"{self._incoming / name}{_CLAIM_SUFFIX}", create=True) as claim:
                claim.lock()
                # Otherwise the claim was removed while this thread waited for it.
                if claim.is_current:
                    try:
                        yield claim
                    finally:
                        claim.remove()
                    return

    @contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ValueError(
                f"data.cache.folder is {self.folder}, which cannot be written to ({error}); "
                "name a folder on a disk of this machine that has room"
            ) from error

    def _room_lock(self) -> AbstractContextManager[None]:
        """Lock the decision what to evict and what to reserve."""
        return locked(self._incoming / "room.lock")


class _Claim:
    """The right to create one file of the cache, and the disk space reserved for it.

    A file in `incoming`, locked by its owner (by flock, so also against other threads). The size of this sparse file is
    the number of bytes reserved: every process can read it, and it can be set on a full disk.
    """

    def __init__(self, path: str, *, create: bool = False) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o666)
        # A folder for the owner's partial downloads.
        self.workplace = Path(path.removesuffix(_CLAIM_SUFFIX))

    def __enter__(self) -> _Claim:
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file, which releases the lock."""
        os.close(self._descriptor)

    def lock(self, *, wait: bool = True) -> bool:
        """Lock the claim and return True, or return False where another owns it and `wait` is False."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    @property
    def is_current(self) -> bool:
        """Whether the claim has not been removed by its former owner."""
        return is_same_file(self._descriptor, self._path)

    @property
    def reserved_bytes(self) -> int:
        """Disk space reserved for the file that is being created."""
        return os.fstat(self._descriptor).st_size

    def reserve(self, num_bytes: int) -> None:
        """Reserve disk space; the caller holds the room lock."""
        os.truncate(self._descriptor, num_bytes)

    def remove(self) -> None:
        """Delete the claim and the partial downloads; the caller holds its lock."""
        shutil.rmtree(self.workplace, ignore_errors=True)
        os.unlink(self._path)


def exists_with_size(file: Path, num_bytes: int | None) -> bool:
    """Check whether a file exists, and has this size unless it is None."""
    try:
        return num_bytes in (None, file.stat().st_size)
    except FileNotFoundError:
        return False


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _touch(file: Path, verified: float) -> None:
    """Mark a shard as read now, and as verified at a time."""
    try:
        os.utime(file, (time.time(), verified))
    except FileNotFoundError:  # evicted meanwhile
        return


def _decompress(shard: Shard, compressed: Path, raw: Path) -> None:
    try:
        raw.write_bytes(decompress(shard, compressed.read_bytes()))
        problem = expect_file(shard.raw)(raw)
    except ValueError as error:
        problem = str(error)
    if problem:
        name = (shard.compressed or shard.raw).basename
        raise ValueError(f"store: {name} does not match its entry in index.json ({problem})")
