"""Whether a file is the one whose size and hashes are stated.

Files of a store in a folder are checked once before they are first used (`damage_once`). What has been found intact is
remembered for the user in ~/.cache/modernbert-train/verified (below XDG_CACHE_HOME, if that is set): a line for each
file, a hash of its device, inode, size, times and stated hashes. So a file that is written again is checked again; the
store itself may be read-only. Where the memory cannot be written, each process checks anew. (The cache of downloads
checks what it holds on its own: cache.py.)
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path

from modernbert_train.store.mds import new_hash

# A file is remembered once it has not changed for this long: writing again within one tick of its clock would not show.
_SETTLED_SECONDS = 2.0
# Beyond about a million files the memory starts anew.
_MOST_BYTES = 32 << 20


def damage(file: Path, num_bytes: int, hashes: Mapping[str, str]) -> str | None:
    """Read a file and compare it with what is stated about it.

    Args:
        file: to be checked.
        num_bytes: its size.
        hashes: algorithm -> hexadecimal digest.

    Returns:
        What differs; None if nothing does.

    Raises:
        OSError: The file does not exist, or cannot be read.
        ValueError: An algorithm is unknown.
    """
    status = os.stat(file)
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    if status.st_size != num_bytes:
        return f"{status.st_size:,} bytes instead of {num_bytes:,}"
    for algorithm, stated in hashes.items():
        with open(file, "rb") as opened:
            found = hashlib.file_digest(opened, lambda name=algorithm: new_hash(name))  # type: ignore[misc]
        if found.hexdigest() != stated:
            return f"its {algorithm} differs from the recorded one"
    return None


def damage_once(file: Path, num_bytes: int, hashes: Mapping[str, str]) -> str | None:
    """Check a file like `damage`, but do not read again what has been found intact and has not changed since."""
    started = time.time()
    status = os.stat(file)
    key = _key(status, hashes)
    if key in _memory:
        return None
    problem = damage(file, num_bytes, hashes)
    settled = started - max(status.st_mtime, status.st_ctime) > _SETTLED_SECONDS
    if problem is None and hashes and settled and _key(os.stat(file), hashes) == key:
        _memory.add(key)
    return problem


def was_found_intact(content: str) -> bool:
    """Check whether `remember_intact` was called for this content, which is named by its hashes."""
    return _digest(content) in _memory


def remember_intact(content: str) -> None:
    """Remember that some content, which is named by its hashes, has passed a check that depends on nothing else."""
    _memory.add(_digest(content))


def _key(status: os.stat_result, hashes: Mapping[str, str]) -> str:
    times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
    return _digest(f"{status.st_dev} {status.st_ino} {status.st_size} {times} {sorted(hashes.items())}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class _Memory:
    """A set of keys, shared by all processes of a user: a file to which each appends a line for each key."""

    def __init__(self) -> None:
        self._keys: set[str] = set()
        # Bytes of the file that are in `_keys`.
        self._read_bytes = 0

    def __contains__(self, key: str) -> bool:
        if key not in self._keys:
            self._read()
        return key in self._keys

    def add(self, key: str) -> None:
        self._keys.add(key)
        try:
            file = _memory_file()
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.exists() and file.stat().st_size > _MOST_BYTES:
                file.unlink()
            # In one write, so that lines of several processes do not mix.
            with open(file, "ab", buffering=0) as opened:
                opened.write(f"{key}\n".encode())
        except (OSError, RuntimeError):  # then each process checks for itself
            return

    def _read(self) -> None:
        """Add what other processes have appended since the last time."""
        try:
            with open(_memory_file(), "rb") as opened:
                opened.seek(self._read_bytes if self._read_bytes <= os.fstat(opened.fileno()).st_size else 0)
                self._keys.update(opened.read().decode(errors="replace").split("\n"))
                self._read_bytes = opened.tell()
        except (OSError, RuntimeError):
            return


def _memory_file() -> Path:
    """Return where the memory is; raises RuntimeError for a user without a home."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(folder) / "modernbert-train/verified"


_memory = _Memory()
