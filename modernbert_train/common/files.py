"""Files that are whole or not there, and their hashes."""

import hashlib
import os
from pathlib import Path


def sha256(path: Path) -> str:
    """Hash of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file so that a reader sees the old or the new content, never a part of it."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    flush(temporary)
    os.replace(temporary, path)


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
