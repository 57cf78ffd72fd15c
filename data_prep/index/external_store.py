"""What is in an MDS store that somebody else wrote: its sources and splits, by its index.json files alone.

    STORE/train/<source>/...   STORE/validation/<source>/...   every folder of a split is a source
    STORE/<source>/...         all of it for training, every folder a source
    STORE/shard.00000.mds ...  one source

A folder is read by its index.json, which may name shards in folders below it (Streaming's `merge_index`); where it has
none, all index.json below it are joined.
"""

from dataclasses import dataclass
from pathlib import PurePosixPath

from modernbert_train.store.files import ShardFiles
from modernbert_train.store.mds import INDEX_NAME, Shard
from modernbert_train.store.split import SIDECARS

# Our splits, and the folders that are taken for them
SPLIT_FOLDERS = {"train": ("train", "training"), "valid": ("valid", "validation", "val", "eval", "dev")}


@dataclass(frozen=True)
class ExternalSplit:
    """Shards of one split of one source."""

    folder: str  # below the store; names of the shards count from here
    shards: list[Shard]


def find_splits(files: ShardFiles, source: str | None) -> dict[str, dict[str, ExternalSplit]]:
    """Source -> split ("train", "valid") -> its shards. `source`: the name of all there is, as one source.

    ValueError: no index.json, a broken one, or one of another format.
    """
    found: dict[str, dict[str, ExternalSplit]] = {}
    for split, names in SPLIT_FOLDERS.items():
        for folder in names:
            shards = _shards_of(files, folder)
            for name, of_source in _by_source(shards, source or folder, group=source is None).items():
                found.setdefault(name, {}).setdefault(split, ExternalSplit(folder, of_source))
    if not found:
        shards = _shards_of(files, "")
        sources = _by_source(shards, source or PurePosixPath(files.root).name, group=source is None)
        found = {name: {"train": ExternalSplit("", of_source)} for name, of_source in sources.items()}
    if not found:
        raise ValueError(
            f"store: {files.root} has no {INDEX_NAME} with shards, nor has a folder train/ in it: not an MDS store, "
            "or not its top folder"
        )
    without = [name for name, splits in found.items() if "train" not in splits]
    if without:
        raise ValueError(f"store: source {without[0]} of {files.root} has no shards for training")
    return found


def _shards_of(files: ShardFiles, folder: str) -> list[Shard]:
    """The shards of a folder, as its index.json names them; joined from those below it where it has none."""
    prefix = f"{folder}/" if folder else ""
    if files.exists(prefix + INDEX_NAME):
        return _read_index(files, prefix + INDEX_NAME, "")
    shards: list[Shard] = []
    read: list[str] = []
    for name in sorted(files.indexes(folder), key=lambda name: (name.count("/"), name)):
        below = name.removesuffix(INDEX_NAME)
        named_already = any(below.startswith(outer) for outer in read)  # by an index further out
        if not named_already and not files.exists(
            below + SIDECARS[0]
        ):  # what `index` itself wrote is no source
            read.append(below)
            shards += _read_index(files, name, below.removeprefix(prefix).rstrip("/"))
    return shards


def _read_index(files: ShardFiles, name: str, folder: str) -> list[Shard]:
    content = files.json(name)
    try:
        shards = [Shard.from_json(entry).below(folder) for entry in content["shards"] if entry["samples"]]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{files.root}/{name}: not the index of an MDS store ({error!r} is missing)"
        ) from error
    except ValueError as error:
        raise ValueError(f"{files.root}/{name}: {error}") from error
    return shards


def _by_source(shards: list[Shard], name: str, *, group: bool) -> dict[str, list[Shard]]:
    """Shards by the first folder of their names, which is their source; shards without one are source `name`."""
    sources: dict[str, list[Shard]] = {}
    for shard in shards:
        first, *rest = PurePosixPath(shard.raw.basename).parts
        sources.setdefault(first if group and rest else name, []).append(shard)
    return sources
