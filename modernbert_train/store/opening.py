"""Opening a store: a folder is read in place, a URL through the cache.

Each machine downloads what planning needs once: the manifest, and the sidecars of the sources that are read. Shards
are downloaded when they are read (reading.py). manifest.json is downloaded at every start: a store that has been
prepared again under the same URL is another version, with its own folder in the cache.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from collections.abc import Collection, Mapping
from pathlib import Path

from tqdm import tqdm

from modernbert_train.store.cache import Cache
from modernbert_train.store.download import check_scheme, expect, is_url
from modernbert_train.store.integrity import damage_once
from modernbert_train.store.manifest import (
    MANIFEST_NAME,
    TOKENIZER_FILES,
    Manifest,
    load_manifest,
    read_manifest_json,
    stated_files,
)
from modernbert_train.store.names import inside
from modernbert_train.store.split import Split
from modernbert_train.store.tokenizer import tokenizer_fingerprint

log = logging.getLogger(__name__)

# Larger downloads show a progress bar.
_BAR_BYTES = 50_000_000


def open_store(store: str, sources: Collection[str], cache: Cache | None) -> Manifest:
    """Load the manifest of a store, and download the sidecars of some sources if it is remote.

    Args:
        store: a folder or a URL.
        sources: names of the sources to read; of all others, only what the manifest states is available.
        cache: holds what is downloaded; needed for a URL.

    Returns:
        The manifest, with local sidecars.

    Raises:
        ValueError: The store does not exist, cannot be downloaded or is damaged.
    """
    if not is_url(store):
        return load_manifest(store, sources)
    assert cache is not None
    url = store.rstrip("/")
    folder = _mirror(url, cache)
    manifest = load_manifest(folder, sources=())
    _fetch_sidecars(url, folder, [name for name in manifest.sources if name in sources], cache)
    manifest = load_manifest(folder, sources)
    located = {
        source: {
            name: dataclasses.replace(split, remote=_shards_url(url, folder, split, f"{source}/{name}"))
            for name, split in splits.items()
        }
        for source, splits in manifest.sources.items()
    }
    return dataclasses.replace(manifest, sources=located)


def _shards_url(url: str, folder: Path, split: Split, place: str) -> str:
    """Return the URL of the shards of a split. Of external ones the manifest states it, or a place in the store."""
    if split.remote is None:
        return f"{url}/{place}"
    if is_url(split.remote):
        return split.remote
    try:
        place_in_store = Path(split.remote).relative_to(os.path.normpath(folder.absolute()))
    except ValueError as error:
        raise ValueError(
            f"store: {url}/{MANIFEST_NAME} says that the shards of {place} are in a folder outside of the store, which "
            "only the machine has where it was indexed; index the URL of the shards, and upload that index"
        ) from error
    return "/".join((url, *place_in_store.parts))


def open_tokenizer(path: str, cache: Cache | None) -> Path:
    """Return the local path of a tokenizer, which may be named by the URL of a store that holds a copy of it."""
    if not is_url(path):
        return Path(path)
    assert cache is not None
    url = path.rstrip("/")
    folder = _mirror(url, cache)
    fingerprint = load_manifest(folder, sources=()).tokenizer_fingerprint

    def problem(file: Path) -> str | None:
        same = file.name != "tokenizer.json" or tokenizer_fingerprint(file) == fingerprint
        return None if same else "not the tokenizer that the store was made with (fingerprints differ)"

    for name in TOKENIZER_FILES:
        cache.fetch(f"{url}/{name}", folder / name, problem)
    return folder


def _mirror(url: str, cache: Cache) -> Path:
    """Return the local folder for the current version of a store, which holds its manifest."""
    check_scheme(url)
    versions = cache.path_of("stores", url)
    content = cache.refresh(f"{url}/{MANIFEST_NAME}", versions / MANIFEST_NAME, check=lambda file: None)
    folder = versions / hashlib.sha256(content).hexdigest()[:12]
    others = [path for path in versions.iterdir() if path.is_dir() and path != folder]
    if others and not folder.exists():
        log.warning(
            "%s has changed since it was last read here, so it is downloaded again; the earlier version, in %s and "
            "among the shards, can be deleted when no run reads it",
            url,
            ", ".join(map(str, others)),
        )
    cache.put(content, folder / MANIFEST_NAME)
    return folder


def _fetch_sidecars(url: str, folder: Path, sources: list[str], cache: Cache) -> None:
    content = read_manifest_json(folder).fields("sources")
    all_splits = {source: content.fields(source).fields("splits") for source in sources}
    stated = {
        f"{source}/{split}/{name}": entry
        for source, splits in all_splits.items()
        for split in splits
        for name, entry in stated_files(splits, split).items()
    }
    missing = {
        place: entry for place, entry in stated.items() if not _is_intact(inside(folder, place), *entry)
    }
    num_bytes = sum(size for size, _ in missing.values())
    title = f"lengths and indices of {url}"
    # None hides the bar where there is no terminal.
    hidden = None if num_bytes > _BAR_BYTES else True
    with tqdm(total=num_bytes, desc=title, unit="B", unit_scale=True, disable=hidden) as bar:
        for place, (size, hashes) in missing.items():
            cache.fetch(f"{url}/{place}", folder / place, expect(size, hashes), size, bar.update)


def _is_intact(file: Path, num_bytes: int, hashes: Mapping[str, str]) -> bool:
    if not file.exists():
        return False
    if (problem := damage_once(file, num_bytes, hashes)) is not None:
        log.warning("%s is damaged (%s): it is downloaded again", file, problem)
    return problem is None
