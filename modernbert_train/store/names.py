"""Names in the files of a store: of its sources, splits and shards.

A store may come from anybody, so what its files name is a place below the folder of the store, or an error. Every such
name becomes a path here: `inside` for a file to read, `to_write` for one to write.
"""

import os
import re
import stat
from pathlib import Path
from typing import Any

from modernbert_train.common.text import shorten

_SOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# Longest name of a file of a store, folders included.
_MOST_BYTES = 1_000
_MOST_BYTES_OF_PART = 200
NAME_RULE = (
    "a path below the folder of the store, of printable characters, without `..`, links or backslashes"
)


def is_source_name(name: str) -> bool:
    """Check whether a source could have this name."""
    return _SOURCE.fullmatch(name) is not None


def is_name(name: Any) -> bool:
    """Check whether a value of a JSON file is a path that does not lead out of a folder, as far as its text shows."""
    if not isinstance(name, str) or not name.isprintable() or "\\" in name or "://" in name:
        return False
    parts = name.split("/")
    return (
        not {"", ".", ".."} & set(parts)
        and len(name.encode()) <= _MOST_BYTES
        and max(len(part.encode()) for part in parts) <= _MOST_BYTES_OF_PART
    )


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file of a store.

    Args:
        folder: of the store, or of one of its splits.
        name: below the folder, as a file of the store states it.

    Returns:
        The path, which need not exist.

    Raises:
        ValueError: The name, or a link, leads out of the folder.
    """
    if not is_name(name):
        raise ValueError(f"store: {folder} names a file {shorten(name)}, allowed: {NAME_RULE}")
    path, root = folder / name, os.path.realpath(folder)
    found = os.path.realpath(path)
    if not any(_is_below(found, allowed) for allowed in (root, *_blobs(root))):
        raise ValueError(
            f"store: {path} is a link that leads to {found}, out of {folder}; put a copy in place of the link"
        )
    return path


def to_write(folder: Path, name: str) -> Path:
    """Return the path of a file or folder to write in a folder that a store may have come in.

    Args:
        folder: of the store.
        name: below the folder.

    Returns:
        The path, which need not exist.

    Raises:
        ValueError: The name leads out of the folder, or is taken by something that was not written there: a link, a
            device, a pipe.
    """
    path = inside(folder, name)
    mode = path.lstat().st_mode if os.path.lexists(path) else stat.S_IFREG
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ValueError(f"store: {path} is a link or a device and is not overwritten; remove it")
    return path


def _is_below(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder


def _blobs(root: str) -> list[str]:
    """Return where the cache of Hugging Face keeps the files of a snapshot, which are links to them."""
    return [str(parent.parent / "blobs") for parent in Path(root).parents if parent.name == "snapshots"]
