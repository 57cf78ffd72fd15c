"""Reads every byte of a store to tell whether it still is what was prepared."""

import json
from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from modernbert_train.common.files import sha256
from modernbert_train.store.files import ShardFiles
from modernbert_train.store.manifest import TOKENIZER_FILES, Manifest, Split, read_manifest_json
from modernbert_train.store.mds import foreign_shard_problem, shard_problem
from modernbert_train.store.tokenizer import load_tokenizer_info, tokenizer_fingerprint


def verify_store(manifest: Manifest) -> list[str]:
    """Read every byte of a store; what is wrong with it, one line each (an empty list: nothing)."""
    problems = []
    content = read_manifest_json(manifest.path)
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
            files = content["sources"][source]["splits"][name]["files"]
            for file, entry in files.items():
                if sha256(split.path / file) != entry["sha256"]:
                    problems.append(f"{split.path / file}: damaged (sha256 differs from the manifest's)")
            problems += _verify_counts(split)
            problems += [
                f"{file}: {problem}"
                for file, problem in _shard_problems(split, manifest)
                if problem is not None
            ]
    return problems


def _verify_counts(split: Split) -> list[str]:
    lengths, blocks = split.lengths(), split.blocks()
    stated_and_found = {
        "documents in blocks.npy": (split.num_documents, int(blocks[:, 0].sum())),
        "tokens in blocks.npy": (split.num_tokens, int(blocks[:, 1].sum())),
        "tokens in lengths.npy": (split.num_tokens, int(lengths.sum(dtype=np.int64))),
        "blocks in shards.npy": (split.num_blocks, int(split.shards[:, 0].sum())),
        "documents in shards.npy": (split.num_documents, int(split.shards[:, 1].sum())),
        "tokens in shards.npy": (split.num_tokens, int(split.shards[:, 2].sum())),
    }
    return [
        f"{split.path}: {found:,} {what}, the manifest says {stated:,}"
        for what, (stated, found) in stated_and_found.items()
        if stated != found
    ]


def _shard_problems(split: Split, manifest: Manifest) -> Iterator[tuple[str, str | None]]:
    """File of every shard, and what is wrong with it."""
    index = split.path / "index.json"
    try:
        shards = json.loads(index.read_text(encoding="utf-8"))["shards"]
    except (OSError, ValueError, KeyError) as error:
        yield str(index), f"cannot be read ({error})"
        return
    unit, column = ("blocks", 0) if split.samples is None else ("documents", 1)  # what a sample is
    indexed, stated = [shard["samples"] for shard in shards], split.shards[:, column].tolist()
    if indexed != stated:
        yield str(index), f"{unit} per shard {indexed}, shards.npy says {stated}"
        return
    files = ShardFiles(split.remote or str(split.path))
    tokenizer = load_tokenizer_info(manifest.path) if split.samples else None
    for number, info in enumerate(tqdm(shards, desc="/".join(split.path.parts[-2:]), unit=" shards")):
        first_block, first_document = split.first_of_shards[number].tolist()
        num_blocks, num_documents = split.shards[number, :2].tolist()
        lengths = split.lengths(first_document, num_documents)
        name = info["raw_data"]["basename"]
        if split.samples and tokenizer:
            yield (
                f"{files.root}/{name}",
                foreign_shard_problem(files, info, split.samples, lengths, tokenizer),
            )
        else:
            blocks = split.blocks(first_block, num_blocks)
            file, dtype, vocab_size = split.path / name, manifest.token_dtype, manifest.vocab_size
            yield str(file), shard_problem(file, info["raw_data"], dtype, vocab_size, blocks, lengths)
