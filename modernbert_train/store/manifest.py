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
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modernbert_train.common.files import json_sha256, sha256, write_atomically
from modernbert_train.common.redaction import check_no_secret
from modernbert_train.common.text import shorten
from modernbert_train.store.external import SampleLayout
from modernbert_train.store.fields import Fields, read_json
from modernbert_train.store.integrity import damage, damage_once, remember_intact, was_found_intact
from modernbert_train.store.lost_text import TextCounts
from modernbert_train.store.mds import INDEX_NAME, read_shards
from modernbert_train.store.names import inside, is_source_name
from modernbert_train.store.split import SIDECARS, Split, index_problem, number_problem, row_problem
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
# Field of the hash of all other fields.
_HASH = "sha256"


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
    content: dict[str, Any] = {
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
    content[_HASH] = json_sha256(content)
    write_atomically(store / MANIFEST_NAME, json.dumps(content, indent=1, ensure_ascii=False))


def _split_to_json(split: Split) -> dict[str, Any]:
    files = {
        name: {"bytes": (split.path / name).stat().st_size, "sha256": sha256(split.path / name)}
        for name in (INDEX_NAME, *SIDECARS)
    }
    entry = {
        "num_documents": split.num_documents,
        "num_tokens": split.num_tokens,
        "num_blocks": split.num_blocks,
        "lengths_tokens": length_summary(split.lengths_in_parts()),
        "files": files,
    }
    if split.sample_layout is not None:
        entry |= {"shards": split.remote, "samples": split.sample_layout.to_json()}
    return entry


def length_summary(parts: Iterable[npt.NDArray[np.uint32]]) -> dict[str, int]:
    """Return exact percentiles (p5, p50, p95 and the maximum) of document lengths that come in parts."""
    counts = np.zeros(1, np.int64)
    for lengths in parts:
        more = np.bincount(lengths, minlength=len(counts))
        more[: len(counts)] += counts
        counts = more
    ranks = {name: math.ceil(counts.sum() * share) for name, share in _SUMMARY.items()}
    return {name: int(np.searchsorted(np.cumsum(counts), rank)) for name, rank in ranks.items()}


def load_manifest(store: str | Path, sources: Collection[str] | None = None) -> Manifest:
    """Load the manifest of a finished store and check its sidecars.

    They are read if they have not been found intact before. Shards are checked when they are first used (reading.py).

    Args:
        store: folder of the store.
        sources: whose sidecars to check; None: all.

    Returns:
        The manifest.

    Raises:
        ValueError: The folder does not exist, the store is not finished, or its manifest or a sidecar is damaged.
    """
    store = Path(store)
    if not store.is_dir():
        raise ValueError(
            f"store: {store} does not exist; make it with `python -m data_prep tokenize {store} ...`"
        )
    content = read_manifest_json(store)
    found, licences, left_out, texts = {}, {}, {}, {}
    for source in (bodies := content.fields("sources")):
        if not is_source_name(source):
            raise bodies.refuse(source, "a source whose name is one of a folder, such as web")
        body = bodies.fields(source)
        check = sources is None or source in sources
        found[source] = _load_splits(store, source, body.fields("splits"), check)
        if "licence" in body:
            licences[source] = body.text("licence")
        reasons = body.fields("left_out")
        left_out[source] = {reason: reasons.whole(reason) for reason in reasons}
        texts[source] = TextCounts.from_fields(body.fields("text")) if "text" in body else None
    if content.value("token_dtype") not in ("uint16", "uint32"):
        raise content.refuse("token_dtype", "uint16 or uint32")
    return Manifest(
        path=store,
        tokenizer_fingerprint=content.text("tokenizer_fingerprint"),
        vocab_size=content.whole("vocab_size", least=1, most=1 << 32),
        token_dtype=content.text("token_dtype"),
        sources=found,
        licences=licences,
        left_out=left_out,
        command=content.text("command"),
        texts=texts,
    )


def is_store(folder: Path) -> bool:
    """Check whether a folder holds a token store of any version; its manifest.json may belong to another program."""
    try:
        return MANIFEST_FORMAT in (folder / MANIFEST_NAME).read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return False


def read_manifest_json(store: Path) -> Fields:
    """Return the content of manifest.json; raise ValueError if it is missing, broken, damaged or of another version."""
    file = store / MANIFEST_NAME
    if not file.is_file():
        raise ValueError(
            f"store: {store} has no {MANIFEST_NAME}: not a token store, or its preparation did not finish; "
            f"run `python -m data_prep tokenize {store} ...`"
        )
    content = read_json(file)
    version = content.value("version") if "version" in content else None
    if version != MANIFEST_VERSION:
        raise ValueError(
            f"store: {file} has version {shorten(version)}, allowed: {MANIFEST_VERSION}; prepare the store again"
        )
    # Manifests of earlier versions of this package have none.
    if _HASH in content and content.text(_HASH) != json_sha256(content.without(_HASH)):
        raise ValueError(
            f"store: {file} is damaged, or was edited (its content differs from its {_HASH}); restore it from a copy; "
            f"if you edited it on purpose, delete the field {_HASH}"
        )
    return content


def stated_files(splits: Fields, name: str) -> dict[str, tuple[int, dict[str, str]]]:
    """Return the size and the hashes that the manifest states of index.json and the sidecars of a split."""
    files = splits.fields(name).fields("files")
    stated = {file: files.fields(file) for file in (INDEX_NAME, *SIDECARS)}
    return {file: (entry.whole("bytes"), {"sha256": entry.text("sha256")}) for file, entry in stated.items()}


def _load_splits(store: Path, source: str, splits: Fields, check: bool) -> dict[str, Split]:
    found = {}
    for name in splits:
        if name not in SPLIT_NAMES:
            raise splits.refuse(name, f"a split named {' or '.join(SPLIT_NAMES)}")
        found[name] = _load_split(inside(store, f"{source}/{name}"), store, splits, name)
        if check and (problem := split_problem(found[name], stated_files(splits, name))):
            raise ValueError(f"store: {problem}; copy or prepare it again")
    return found


def _load_split(path: Path, store: Path, splits: Fields, name: str) -> Split:
    files = stated_files(splits, name)
    hashes = "".join(files[file][1]["sha256"] for file in sorted(files))
    entry = splits.fields(name)
    remote, sample_layout = None, None
    if "samples" in entry:
        shards = entry.text("shards")
        if "\0" in shards:
            raise entry.refuse("shards", "a folder or a URL")
        if is_url := "://" in shards:
            check_no_secret(f"store: {store / MANIFEST_NAME}: shards", shards)
        remote = shards if is_url else os.path.normpath(store.absolute() / shards)
        sample_layout = SampleLayout.from_fields(entry.fields("samples"))
    return Split(
        path,
        entry.whole("num_documents"),
        entry.whole("num_tokens"),
        entry.whole("num_blocks"),
        hashlib.sha256(hashes.encode()).hexdigest(),
        remote,
        sample_layout,
    )


def split_problem(
    split: Split, stated: Mapping[str, tuple[int, dict[str, str]]], *, again: bool = False
) -> str | None:
    """Check index.json and the sidecars of a split, once before they are first used.

    Args:
        split: as the manifest states it.
        stated: name of each file -> its bytes, and its hashes.
        again: whether to read what has been found intact before.

    Returns:
        A file and what is wrong with it; None if nothing is.
    """
    for name, (num_bytes, hashes) in stated.items():
        file = inside(split.path, name)
        if not file.is_file():
            return f"{file} is missing, the manifest says {num_bytes:,} bytes"
        if (found_bytes := file.stat().st_size) != num_bytes:
            return f"{file} has {found_bytes:,} bytes, the manifest says {num_bytes:,}"
        if (problem := (damage if again else damage_once)(file, num_bytes, hashes)) is not None:
            return f"{file} is damaged ({problem})"
    # The numbers depend on the content of the sidecars alone, and on what the manifest says of them.
    kind = "documents" if split.sample_layout else "blocks"
    numbers = f"{split.digest} {kind} {split.num_documents} {split.num_tokens} {split.num_blocks}"
    if not again and was_found_intact(numbers):
        return None
    try:
        problem = row_problem(split) or number_problem(split)
        if problem is None and (problem := index_problem(split, read_shards(split.path))):
            problem = f"{INDEX_NAME}: {problem}"
    except ValueError as error:  # of a sidecar or the index itself
        return str(error).removeprefix("store: ")
    if problem is not None:
        return f"{split.path}: {problem}"
    remember_intact(numbers)
    return None
