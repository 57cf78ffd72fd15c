"""Files: atomic writes, hashes, locks."""

import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modernbert_train.common.errors import naming


def url_problem(name: str, folder: str | Path) -> str | None:
    """Return what is wrong with a folder to write that is named by a URL; None for a path."""
    # A Path has merged the slashes.
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(folder)):
        return None
    return (
        f"{name} is {folder}, a URL, which cannot be written to; name a folder on this machine or on shared storage, "
        "and copy it to the URL afterwards"
    )


def check_new_folder(out: str | Path) -> None:
    """Check that a folder can be made, before the work that fills it.

    Raises:
        ValueError: `out` is a file, a URL, or a folder that is not empty.
    """
    if problem := url_problem("the folder to write", out):
        raise ValueError(problem)
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not empty; name a new folder, or remove it first")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `out` at the end, or deleted after an error.

    Raises:
        ValueError: `out` is a file, a URL, or a folder that is not empty.
    """
    check_new_folder(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside `out` and not in /tmp: a rename works only within one file system.
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        folder = Path(temporary) / out.name
        folder.mkdir()
        yield folder
        folder.rename(out)


def sha256(path: Path) -> str:
    """Return the hash of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_sha256(content: Mapping[str, Any]) -> str:
    """Return the hash of the fields of a JSON file, hexadecimal; their order and white space do not matter."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file so that a reader, or a restart, sees the old or the new content, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)  # a link with this name would be written through
    with naming(path):
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    flush(temporary)
    temporary.replace(path)


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_same_file(descriptor: int, path: str | Path) -> bool:
    """Check whether a path still leads to an open file, which may have been deleted or replaced since."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on a file, which is created if missing, against other processes and threads.

    The kernel releases it when the process ends. A flock belongs to the open file, so that threads exclude each other
    too, but forks inherit it. (A run folder has a POSIX lock instead: see training/distributed/run_lock.py.)

    Args:
        path: of the file.
        wait: until the lock is free.

    Yields:
        Nothing; the lock is released on exit.

    Raises:
        BlockingIOError: The lock is held by another, and `wait` is False.
    """
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
