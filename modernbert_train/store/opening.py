"""Opening a store: a folder is read in place, a URL through the cache.

Each machine downloads what planning needs once: the manifest, and the sidecars of the sources that are read. Shards
are downloaded when they are read (reading.py). manifest.json is downloaded at every start: a store that has been
prepared again under the same URL is another version, with its own folder in the cache.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Collection
from pathlib import Path

from tqdm import tqdm

from modernbert_train.store.cache import Cache, exists_with_size
from modernbert_train.store.download import check_scheme, expect, is_url
from modernbert_train.store.manifest import (
    MANIFEST_NAME,
    TOKENIZER_FILES,
    Manifest,
    load_manifest,
    read_manifest_json,
)
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
            # The manifest states where external shards are.
            name: split
            if split.sample_layout is not None
            else dataclasses.replace(split, remote=f"{url}/{source}/{name}")
            for name, split in splits.items()
        }
        for source, splits in manifest.sources.items()
    }
    return dataclasses.replace(manifest, sources=located)


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
    stated = {
        f"{source}/{split}/{name}": entry
        for source in sources
        for split, split_entry in read_manifest_json(folder)["sources"][source]["splits"].items()
        for name, entry in split_entry["files"].items()
    }
    missing = {
        place: entry
        for place, entry in stated.items()
        if not exists_with_size(folder / place, entry["bytes"])
    }
    num_bytes = sum(entry["bytes"] for entry in missing.values())
    title = f"lengths and indices of {url}"
    # None hides the bar where there is no terminal.
    hidden = None if num_bytes > _BAR_BYTES else True
    with tqdm(total=num_bytes, desc=title, unit="B", unit_scale=True, disable=hidden) as bar:
        for place, entry in missing.items():
            check = expect(entry["bytes"], {"sha256": entry["sha256"]})
            cache.fetch(f"{url}/{place}", folder / place, check, entry["bytes"], bar.update)
