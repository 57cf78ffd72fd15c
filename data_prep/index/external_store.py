"""Finds the sources and splits of an external MDS store from its index.json files.

    STORE/train/<source>/...   STORE/validation/<source>/...   every folder of a split is a source
    STORE/<source>/...                                         every folder is a source, all for training
    STORE/shard.00000.mds ...                                  one source

The index.json of a folder may list shards in folders below it (Streaming's `merge_index`). If a folder has none, all
index.json files below it are joined.
"""

from dataclasses import dataclass
from pathlib import PurePosixPath

from modernbert_train.store.files import ShardFiles
from modernbert_train.store.mds import INDEX_NAME, Shard, parse_shards
from modernbert_train.store.split import SIDECARS

# Split -> names of folders that are recognized as this split
SPLIT_FOLDERS = {"train": ("train", "training"), "valid": ("valid", "validation", "val", "eval", "dev")}


@dataclass(frozen=True)
class ExternalSplit:
    """The shards of one split of one source."""

    folder: str  # relative to the store; the names of the shards are relative to it
    shards: list[Shard]


def find_splits(files: ShardFiles, source: str | None) -> dict[str, dict[str, ExternalSplit]]:
    """Find the splits of all sources.

    Args:
        files: of the store.
        source: name of the single source that all shards belong to; None if folders are sources.

    Returns:
        Source -> split ("train", "valid") -> its shards.

    Raises:
        ValueError: There is no index.json, or it is broken or of another format, or a source has nothing to train on.
    """
    found: dict[str, dict[str, ExternalSplit]] = {}
    for split, names in SPLIT_FOLDERS.items():
        for folder in names:
            shards = _shards_of(files, folder)
            by_source = _by_source(shards, source or folder, group=source is None)
            for name, source_shards in by_source.items():
                found.setdefault(name, {}).setdefault(split, ExternalSplit(folder, source_shards))
    if not found:
        shards = _shards_of(files, "")
        by_source = _by_source(shards, source or PurePosixPath(files.root).name, group=source is None)
        found = {name: {"train": ExternalSplit("", shards)} for name, shards in by_source.items()}
    if not found:
        raise ValueError(
            f"store: {files.root} has no {INDEX_NAME} with shards, and neither has train/ in it; name the top folder "
            "of an MDS store"
        )
    without = [name for name, splits in found.items() if "train" not in splits]
    if without:
        raise ValueError(
            f"store: source {without[0]} of {files.root} has no shards for training; move them to train/"
        )
    return found


def _shards_of(files: ShardFiles, folder: str) -> list[Shard]:
    """List the shards of a folder from its index.json or, if it has none, from those below it."""
    prefix = f"{folder}/" if folder else ""
    if files.exists(prefix + INDEX_NAME):
        return _read_index(files, prefix + INDEX_NAME, "")
    shards: list[Shard] = []
    read: list[str] = []
    for name in sorted(files.indexes(folder), key=lambda name: (name.count("/"), name)):
        below = name.removesuffix(INDEX_NAME)
        is_listed = any(below.startswith(outer) for outer in read)  # by an index in a folder above
        is_ours = files.exists(below + SIDECARS[0])  # written by `data_prep index`
        if not is_listed and not is_ours:
            read.append(below)
            shards += _read_index(files, name, below.removeprefix(prefix).rstrip("/"))
    return shards


def _read_index(files: ShardFiles, name: str, folder: str) -> list[Shard]:
    shards = parse_shards(files.json(name), f"{files.root}/{name}")
    return [shard.below(folder) for shard in shards if shard.num_samples]


def _by_source(shards: list[Shard], name: str, *, group: bool) -> dict[str, list[Shard]]:
    """Group shards by the first folder in their name, which is their source; others belong to source `name`."""
    sources: dict[str, list[Shard]] = {}
    for shard in shards:
        first, *rest = PurePosixPath(shard.raw.basename).parts
        sources.setdefault(first if group and rest else name, []).append(shard)
    return sources
