"""The format of a token store, which `data_prep` writes and training reads.

    STORE/manifest.json  tokenizer.json  tokenizer_config.json
    STORE/<source>/<split>/index.json shard.*.mds   a sample is a block of documents: `input_ids`, `lengths`
    STORE/<source>/<split>/lengths.npy blocks.npy shards.npy   what planning reads (split.py)

External shards (`data_prep index`) stay where they are; the manifest states where ("shards": a URL, or a path relative
to the folder of the store), and how their samples hold the documents ("samples").

Content tokens have no [CLS] and no [SEP]: these are added when a row is read, so that one store serves every context
length. MDS sample i is block i, and the documents of block 0 come first in `lengths.npy`. Splits without documents are
left out. manifest.json is written last and atomically: a folder that has one is a finished store.
"""

import hashlib
import json
import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modernbert_train.common.files import sha256, write_atomically
from modernbert_train.common.redaction import check_no_secret
from modernbert_train.store.external import SampleLayout
from modernbert_train.store.lost_text import TextCounts
from modernbert_train.store.split import SIDECARS, Split, sidecar_shapes
from modernbert_train.store.tokenizer import TOKENIZER_FILES, TokenizerInfo, load_tokenizer_info

__all__ = [
    "MANIFEST_NAME", "SPLIT_NAMES", "TOKENIZER_FILES",
    "Manifest", "Split", "TokenizerInfo", "is_store", "load_manifest", "load_tokenizer_info", "read_manifest_json",
    "token_dtype", "write_manifest",
]  # fmt: skip

MANIFEST_NAME = "manifest.json"
MANIFEST_FORMAT = "modernbert-train token store"
MANIFEST_VERSION = 2
SPLIT_NAMES = ("train", "valid")
_SUMMARY = {"p5": 0.05, "p50": 0.5, "p95": 0.95, "max": 1.0}
# Number of lengths read at a time.
_SUMMARY_DOCUMENTS = 1 << 24


@dataclass(frozen=True)
class Manifest:
    """A finished store."""

    path: Path
    tokenizer_fingerprint: str
    vocab_size: int
    # Of the ids in the shards: "uint16" or "uint32".
    token_dtype: str
    # Source -> split ("train", "valid") -> its folder; splits without documents are left out.
    sources: dict[str, dict[str, Split]]
    # Source -> licence, of the sources for which one was given.
    licences: dict[str, str]
    # Source -> reason ("empty", "duplicate", ...) -> number of documents that are not in the store.
    left_out: dict[str, dict[str, int]]
    # The command that made the store, without options that do not change its bytes.
    command: str
    # Source -> what the tokenizer made of its text; None where that was not measured.
    texts: dict[str, TextCounts | None]


def token_dtype(vocab_size: int) -> str:
    """Return the smallest dtype that holds every id of a vocabulary."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def write_manifest(
    store: Path,
    tokenizer: TokenizerInfo,
    sources: dict[str, dict[str, Split]],
    licences: dict[str, str],
    left_out: dict[str, dict[str, int]],
    command: str,
    texts: Mapping[str, TextCounts] | None = None,
) -> None:
    """Write the manifest of a store whose shards, sidecars and tokenizer files are in place, which finishes it."""
    texts = texts or {}
    content = {
        "format": MANIFEST_FORMAT,
        "version": MANIFEST_VERSION,
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "token_dtype": token_dtype(tokenizer.vocab_size),
        "command": command,
        "sources": {
            source: {
                "licence": licences.get(source),
                "left_out": left_out[source],
                "text": texts[source].to_json() if source in texts else None,
                "splits": {name: _split_to_json(split) for name, split in splits.items()},
            }
            for source, splits in sources.items()
        },
    }
    write_atomically(store / MANIFEST_NAME, json.dumps(content, indent=1, ensure_ascii=False))


def _split_to_json(split: Split) -> dict[str, Any]:
    files = {
        name: {"bytes": (split.path / name).stat().st_size, "sha256": sha256(split.path / name)}
        for name in ("index.json", *SIDECARS)
    }
    entry = {
        "num_documents": split.num_documents,
        "num_tokens": split.num_tokens,
        "num_blocks": split.num_blocks,
        "lengths_tokens": length_summary(split.lengths()),
        "files": files,
    }
    if split.sample_layout is not None:
        entry |= {"shards": split.remote, "samples": split.sample_layout.to_json()}
    return entry


def length_summary(lengths: npt.NDArray[np.uint32]) -> dict[str, int]:
    """Return exact percentiles of document lengths (p5, p50, p95 and the maximum), in bounded memory."""
    counts = np.zeros(1, np.int64)
    for first in range(0, len(lengths), _SUMMARY_DOCUMENTS):
        more = np.bincount(lengths[first : first + _SUMMARY_DOCUMENTS], minlength=len(counts))
        more[: len(counts)] += counts
        counts = more
    ranks = {name: math.ceil(len(lengths) * share) for name, share in _SUMMARY.items()}
    return {name: int(np.searchsorted(np.cumsum(counts), rank)) for name, rank in ranks.items()}


def load_manifest(store: str | Path, sources: Collection[str] | None = None) -> Manifest:
    """Load the manifest of a finished store and check the size and shape of its sidecars.

    Shards are not read; `verify_store` reads them.

    Args:
        store: folder of the store.
        sources: whose sidecars to check; None: all.

    Returns:
        The manifest.

    Raises:
        ValueError: The folder does not exist, the store is not finished, its manifest is broken, or a sidecar does not
            match.
    """
    store = Path(store)
    if not store.is_dir():
        raise ValueError(
            f"store: {store} does not exist; make it with `python -m data_prep tokenize {store} ...`"
        )
    content = read_manifest_json(store)
    try:
        bodies = content["sources"]
        return Manifest(
            path=store,
            tokenizer_fingerprint=str(content["tokenizer_fingerprint"]),
            vocab_size=int(content["vocab_size"]),
            token_dtype=str(content["token_dtype"]),
            sources={
                source: {
                    name: _split_from_json(
                        store, store / source / name, entry, sources is None or source in sources
                    )
                    for name, entry in body["splits"].items()
                }
                for source, body in bodies.items()
            },
            licences={source: body["licence"] for source, body in bodies.items() if body["licence"]},
            left_out={source: dict(body["left_out"]) for source, body in bodies.items()},
            command=str(content["command"]),
            texts={source: TextCounts.from_json(body.get("text")) for source, body in bodies.items()},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"store: {store / MANIFEST_NAME} lacks or mistypes a field ({error!r}); prepare the store again"
        ) from error


def is_store(folder: Path) -> bool:
    """Check whether a folder holds a token store of any version; its manifest.json may belong to another program."""
    try:
        return MANIFEST_FORMAT in (folder / MANIFEST_NAME).read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return False


def read_manifest_json(store: Path) -> dict[str, Any]:
    """Return the content of manifest.json; raise ValueError if it is missing, broken or of another version."""
    file = store / MANIFEST_NAME
    if not file.is_file():
        raise ValueError(
            f"store: {store} has no {MANIFEST_NAME}: not a token store, or its preparation did not finish; "
            f"run `python -m data_prep tokenize {store} ...`"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"store: {file} is not valid JSON ({error}); prepare the store again") from error
    version = content.get("version") if isinstance(content, dict) else None
    if version != MANIFEST_VERSION:
        raise ValueError(
            f"store: {file} has version {version!r}, allowed: {MANIFEST_VERSION}; prepare the store again"
        )
    return content


def _split_from_json(store: Path, path: Path, entry: dict[str, Any], check: bool) -> Split:
    files = entry["files"]
    digest = hashlib.sha256("".join(files[name]["sha256"] for name in sorted(files)).encode()).hexdigest()
    remote, sample_layout = None, None
    if "samples" in entry:
        shards = str(entry["shards"])
        if is_url := "://" in shards:
            check_no_secret(f"store: {store / MANIFEST_NAME}: shards", shards)
        remote = shards if is_url else os.path.normpath(store.absolute() / shards)
        sample_layout = SampleLayout.from_json(entry["samples"])
    split = Split(
        path,
        int(entry["num_documents"]),
        int(entry["num_tokens"]),
        int(entry["num_blocks"]),
        digest,
        remote,
        sample_layout,
    )
    if not check:
        return split
    for name, stated in files.items():
        _check_size(path / name, stated["bytes"])
    for name, (dtype, shape) in sidecar_shapes(split).items():
        _check_array(path / name, dtype, shape)
    return split


def _check_size(file: Path, num_bytes: int) -> None:
    actual_bytes = file.stat().st_size if file.is_file() else None
    if actual_bytes != num_bytes:
        found = "is missing" if actual_bytes is None else f"has {actual_bytes:,} bytes"
        raise ValueError(f"store: {file} {found}, the manifest says {num_bytes:,}; copy or prepare it again")


def _check_array(file: Path, dtype: str, shape: tuple[int, ...]) -> None:
    try:
        array = np.load(file, mmap_mode="r")
    except ValueError as error:
        raise ValueError(f"store: {file} is damaged ({error}); copy or prepare it again") from error
    fits = len(array.shape) == len(shape) and all(
        stated in (-1, found) for stated, found in zip(shape, array.shape, strict=True)
    )
    if array.dtype != dtype or not fits:
        raise ValueError(
            f"store: {file} holds {array.dtype} {array.shape}, the manifest says {dtype} {shape}; "
            "prepare the store again"
        )
