"""Reads every byte of a store to tell whether it still is what was prepared."""

import json

import numpy as np

from modernbert_train.data.manifest import TOKENIZER_FILES, Manifest, Split, read_manifest_json
from modernbert_train.data.shards import shard_problem
from modernbert_train.data.split import sha256
from modernbert_train.data.tokenizer_info import tokenizer_fingerprint


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
        "blocks in shards.npy": (split.num_blocks, int(split.shards[:, 0].sum())),
        "documents in shards.npy": (split.num_documents, int(split.shards[:, 1].sum())),
        "tokens in shards.npy": (split.num_tokens, int(split.shards[:, 2].sum())),
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
    indexed, stated = [shard["samples"] for shard in shards], split.shards[:, 0].tolist()
    if indexed != stated:
        return [f"{split.path / 'index.json'}: blocks per shard {indexed}, shards.npy says {stated}"]
    problems = []
    first_block, first_document = 0, 0
    for shard, (num_blocks, num_documents, _) in zip(shards, split.shards.tolist(), strict=True):
        blocks = split.blocks(first_block, num_blocks)
        lengths = split.lengths(first_document, num_documents)
        file = split.path / shard["raw_data"]["basename"]
        problem = shard_problem(file, shard["raw_data"], dtype, vocab_size, blocks, lengths)
        if problem:
            problems.append(f"{file}: {problem}")
        first_block, first_document = first_block + num_blocks, first_document + num_documents
    return problems
