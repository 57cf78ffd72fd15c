"""The treaty between `data_prep`, which writes token stores, and training, which reads them.

    STORE/manifest.json  tokenizer.json  tokenizer_config.json
    STORE/<source>/<split>/index.json shard.*.mds   a sample is a block of documents: `input_ids`, `lengths`
    STORE/<source>/<split>/lengths.npy              uint32 [num_documents]: content tokens of every document
    STORE/<source>/<split>/blocks.npy               int64 [num_blocks, 2]: documents, tokens of every block

Content tokens carry no [CLS] and no [SEP]: these are added when a row is read, so one store serves every
context length. Sidecars follow the order of the shards: MDS sample i is block i, and the documents of block 0
come first in `lengths.npy`. A split without documents is left out. manifest.json is written last, by a
rename: a folder that has one is a finished store. Nothing here imports torch or streaming, so that planning
starts at once.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modernbert_train.data.shards import shard_problem
from modernbert_train.data.tokenizer_info import TokenizerInfo, load_tokenizer_info, tokenizer_fingerprint

__all__ = [
    "BLOCK_DOCUMENTS", "BLOCK_TOKENS", "MANIFEST_NAME", "SPLIT_NAMES", "TOKENIZER_FILES",
    "Manifest", "Split", "TokenizerInfo", "is_store", "load_manifest", "load_tokenizer_info", "token_dtype",
    "tokenizer_fingerprint", "verify_store", "write_manifest",
]  # fmt: skip

MANIFEST_NAME = "manifest.json"
MANIFEST_FORMAT = "modernbert-train token store"
MANIFEST_VERSION = 1
SPLIT_NAMES = ("train", "valid")
BLOCK_DOCUMENTS = 128  # a block is closed when it holds this many documents
BLOCK_TOKENS = 65_536  # or at least this many tokens, whichever comes first
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Split:
    """One MDS folder: its documents and tokens, and how its blocks are spread over its shards."""

    path: Path
    num_documents: int
    num_tokens: int
    shard_blocks: tuple[int, ...]  # blocks of every shard, in order

    @property
    def num_blocks(self) -> int:
        """MDS samples of the split."""
        return sum(self.shard_blocks)

    def lengths(self) -> np.ndarray:
        """Content tokens of every document in store order: uint32 [num_documents], memory-mapped."""
        return np.load(self.path / "lengths.npy", mmap_mode="r")

    def blocks(self) -> np.ndarray:
        """Documents and tokens of every block: int64 [num_blocks, 2], memory-mapped."""
        return np.load(self.path / "blocks.npy", mmap_mode="r")


@dataclass(frozen=True)
class Manifest:
    """A finished store. `sources`: source -> split ("train", "valid") -> its folder; no empty splits."""

    path: Path
    tokenizer_fingerprint: str
    vocab_size: int
    token_dtype: str  # of the ids in the shards: "uint16" or "uint32"
    sources: dict[str, dict[str, Split]]
    licences: dict[str, str]  # source -> note, where one was given
    skipped_empty: dict[str, int]  # source -> documents without any token, which are not in the store
    command: str  # what made the store, without what does not change its bytes


def token_dtype(vocab_size: int) -> str:
    """Smallest dtype that holds every id of a vocabulary."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def write_manifest(
    store: Path,
    tokenizer: TokenizerInfo,
    sources: dict[str, dict[str, Split]],
    licences: dict[str, str],
    skipped_empty: dict[str, int],
    command: str,
) -> None:
    """Finish a store whose shards, sidecars and tokenizer files are in place; its rename makes it valid."""
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
                "skipped_empty": skipped_empty[source],
                "splits": {name: _split_to_json(split) for name, split in splits.items()},
            }
            for source, splits in sources.items()
        },
    }
    unfinished = store / (MANIFEST_NAME + ".tmp")
    with open(unfinished, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(store / MANIFEST_NAME)


def _split_to_json(split: Split) -> dict[str, Any]:
    sidecars = {
        name: {"bytes": (split.path / name).stat().st_size, "sha256": _sha256(split.path / name)}
        for name in ("lengths.npy", "blocks.npy")
    }
    return {
        "num_documents": split.num_documents,
        "num_tokens": split.num_tokens,
        "shard_blocks": list(split.shard_blocks),
        "sidecars": sidecars,
    }


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_manifest(store: str | Path) -> Manifest:
    """Read a finished store's manifest and check that its sidecars have the size and shape it states.

    Shards are not touched (they may lie elsewhere); `verify_store` reads them.
    ValueError: no such folder, unfinished store, broken or foreign manifest, sidecars that do not match.
    """
    store = Path(store)
    if not store.is_dir():
        raise ValueError(
            f"store: {store} does not exist; make it with `python -m data_prep tokenize {store} ...`"
        )
    content = _read_manifest_json(store)
    try:
        bodies = content["sources"]
        return Manifest(
            path=store,
            tokenizer_fingerprint=str(content["tokenizer_fingerprint"]),
            vocab_size=int(content["vocab_size"]),
            token_dtype=str(content["token_dtype"]),
            sources={
                source: {
                    name: _split_from_json(store / source / name, entry)
                    for name, entry in body["splits"].items()
                }
                for source, body in bodies.items()
            },
            licences={source: body["licence"] for source, body in bodies.items() if body["licence"]},
            skipped_empty={source: int(body["skipped_empty"]) for source, body in bodies.items()},
            command=str(content["command"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"store: {store / MANIFEST_NAME} lacks or mistypes a field ({error!r}); prepare the store again"
        ) from error


def is_store(folder: Path) -> bool:
    """Whether a folder holds a token store, of any version and in any state, and not a foreign manifest.json."""
    try:
        return MANIFEST_FORMAT in (folder / MANIFEST_NAME).read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return False


def _read_manifest_json(store: Path) -> dict[str, Any]:
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


def _split_from_json(path: Path, entry: dict[str, Any]) -> Split:
    split = Split(path, int(entry["num_documents"]), int(entry["num_tokens"]), tuple(entry["shard_blocks"]))
    expected = {
        "lengths.npy": ("uint32", (split.num_documents,)),
        "blocks.npy": ("int64", (split.num_blocks, 2)),
    }
    for name, (dtype, shape) in expected.items():
        file, num_bytes = path / name, entry["sidecars"][name]["bytes"]
        actual_bytes = file.stat().st_size if file.is_file() else None
        if actual_bytes != num_bytes:
            found = "is missing" if actual_bytes is None else f"has {actual_bytes:,} bytes"
            raise ValueError(
                f"store: {file} {found}, the manifest says {num_bytes:,}; copy or prepare it again"
            )
        try:
            array = np.load(file, mmap_mode="r")
        except ValueError as error:
            raise ValueError(f"store: {file} is damaged ({error}); copy or prepare it again") from error
        if array.dtype != dtype or array.shape != shape:
            raise ValueError(
                f"store: {file} holds {array.dtype} {array.shape}, the manifest says {dtype} {shape}; "
                "prepare the store again"
            )
    return split


def verify_store(manifest: Manifest) -> list[str]:
    """Read every byte of a store; what is wrong with it, one line each (an empty list: nothing)."""
    problems = []
    content = _read_manifest_json(manifest.path)
    for file in TOKENIZER_FILES:
        if not (manifest.path / file).is_file():
            problems.append(f"{manifest.path / file}: missing")
    tokenizer_json = manifest.path / "tokenizer.json"
    if tokenizer_json.is_file() and tokenizer_fingerprint(tokenizer_json) != manifest.tokenizer_fingerprint:
        problems.append(
            f"{tokenizer_json}: not the tokenizer that the store was made with (fingerprints differ)"
        )
    for source, splits in manifest.sources.items():
        for name, split in splits.items():
            sidecars = content["sources"][source]["splits"][name]["sidecars"]
            for sidecar, entry in sidecars.items():
                if _sha256(split.path / sidecar) != entry["sha256"]:
                    problems.append(f"{split.path / sidecar}: damaged (sha256 differs from the manifest's)")
            problems += _verify_counts(split) + _verify_shards(
                split, manifest.token_dtype, manifest.vocab_size
            )
    return problems


def _verify_counts(split: Split) -> list[str]:
    lengths, blocks = split.lengths(), split.blocks()
    stated_and_found = {
        "documents in blocks.npy": (split.num_documents, int(blocks[:, 0].sum())),
        "tokens in blocks.npy": (split.num_tokens, int(blocks[:, 1].sum())),
        "tokens in lengths.npy": (split.num_tokens, int(lengths.sum(dtype=np.int64))),
    }
    return [
        f"{split.path}: {found:,} {what}, the manifest says {stated:,}"
        for what, (stated, found) in stated_and_found.items()
        if stated != found
    ]


def _verify_shards(split: Split, dtype: str, vocab_size: int) -> list[str]:
    try:
        shards = json.loads((split.path / "index.json").read_text(encoding="utf-8"))["shards"]
    except (OSError, ValueError, KeyError) as error:
        return [f"{split.path / 'index.json'}: cannot be read ({error})"]
    indexed = tuple(shard["samples"] for shard in shards)
    if indexed != split.shard_blocks:
        return [
            f"{split.path / 'index.json'}: blocks per shard {indexed}, the manifest says {split.shard_blocks}"
        ]
    problems = []
    lengths, blocks = split.lengths(), split.blocks()
    first_block, first_document = 0, 0
    for shard, num_blocks in zip(shards, split.shard_blocks, strict=True):
        shard_blocks = blocks[first_block : first_block + num_blocks]
        num_documents = int(shard_blocks[:, 0].sum())
        shard_lengths = lengths[first_document : first_document + num_documents]
        file = split.path / shard["raw_data"]["basename"]
        problem = shard_problem(file, shard["raw_data"], dtype, vocab_size, shard_blocks, shard_lengths)
        if problem:
            problems.append(f"{file}: {problem}")
        first_block, first_document = first_block + num_blocks, first_document + num_documents
    return problems
