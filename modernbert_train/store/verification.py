"""Checks of a store: every byte of it, or the sizes and headers of its shards."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from modernbert_train.common.text import one_line
from modernbert_train.common.types import Int64, UInt32
from modernbert_train.store.external import (
    SampleLayout,
    content_ids,
    content_lengths,
    sample_offsets,
    shard_layout,
    spans_of,
)
from modernbert_train.store.files import ShardFiles
from modernbert_train.store.integrity import damage, damage_once
from modernbert_train.store.manifest import (
    TOKENIZER_FILES,
    Manifest,
    Split,
    read_manifest_json,
    split_problem,
    stated_files,
)
from modernbert_train.store.mds import Shard, decode_block, digest, read_shards, split_samples
from modernbert_train.store.names import inside
from modernbert_train.store.split import comes_through_cache
from modernbert_train.store.tokenizer import TokenizerInfo, load_tokenizer_info, tokenizer_fingerprint


def verify_store(manifest: Manifest) -> list[str]:
    """Read every byte of a store and return what is wrong with it, one line per problem.

    Args:
        manifest: of the store, whose sidecars need not have been checked.

    Returns:
        The problems.
    """
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
            stated = stated_files(content.fields("sources").fields(source).fields("splits"), name)
            if problem := split_problem(split, stated, again=True):
                problems.append(problem)
                continue
            problems += [
                f"{file}: {problem}"
                for file, problem in _shard_problems(split, manifest)
                if problem is not None
            ]
    return problems


def _shard_problems(split: Split, manifest: Manifest) -> Iterator[tuple[str, str | None]]:
    """Yield the file of every shard of a split with sound sidecars, and what is wrong with it, or None."""
    files = ShardFiles(split.remote or str(split.path))
    tokenizer = load_tokenizer_info(manifest.path) if split.sample_layout else None
    shards = tqdm(read_shards(split.path), desc="/".join(split.path.parts[-2:]), unit=" shards")
    for number, shard in enumerate(shards):
        first_block, first_document = split.first_of_shards[number].tolist()
        num_blocks, num_documents = split.shards[number, :2].tolist()
        lengths = split.lengths(first_document, num_documents)
        if split.sample_layout and tokenizer:
            yield (
                f"{files.root}/{shard.raw.basename}",
                _external_shard_problem(files, shard, split.sample_layout, lengths, tokenizer),
            )
        else:
            blocks, file = split.blocks(first_block, num_blocks), split.path / shard.raw.basename
            yield str(file), shard_problem(file, shard, manifest.vocab_size, blocks, lengths)


def shard_problem(file: Path, shard: Shard, vocab_size: int, blocks: Int64, lengths: UInt32) -> str | None:
    """Read one shard of blocks and return the first thing wrong with it.

    Args:
        file: the shard.
        shard: its entry in index.json.
        vocab_size: every id is below.
        blocks: rows of blocks.npy for this shard [num_blocks, 2].
        lengths: content tokens of each document of this shard [num_documents].

    Returns:
        What differs from the index or the sidecars; None if nothing does.
    """
    try:
        file = inside(file.parent, file.name)
        if (problem := damage(file, shard.raw.bytes, shard.raw.hashes)) is not None:
            return f"damaged ({problem})"
        return _block_problem(file.read_bytes(), shard, vocab_size, blocks, lengths)
    except FileNotFoundError:
        return "missing"
    except (OSError, ValueError) as error:
        return f"cannot be read ({one_line(error)})"


def _block_problem(data: bytes, shard: Shard, vocab_size: int, blocks: Int64, lengths: UInt32) -> str | None:
    """Return the first thing wrong with the bytes of a shard of blocks, see `shard_problem`."""
    samples = split_samples(data)
    if len(samples) != len(blocks):
        return f"{len(samples)} blocks, blocks.npy says {len(blocks)}"
    first = 0
    for block, sample in enumerate(samples):
        ids, block_lengths = decode_block(sample, shard.ids_dtype)
        num_documents, num_tokens = blocks[block]
        stated_lengths = lengths[first : first + num_documents]
        if len(ids) != num_tokens or not np.array_equal(block_lengths, stated_lengths):
            return (
                f"block {block}: {len(block_lengths)} documents, {len(ids)} tokens; not what the sidecars say"
            )
        if ids.max(initial=0) >= vocab_size:
            return f"block {block} has id {ids.max()}, the vocabulary ends at {vocab_size}"
        first += num_documents
    return None


def _external_shard_problem(
    files: ShardFiles, shard: Shard, samples: SampleLayout, lengths: UInt32, tokenizer: TokenizerInfo
) -> str | None:
    """Read one external shard and return the first thing wrong with it, or None."""
    try:
        data = files.read_shard(shard)
        for algorithm, stated in shard.raw.hashes.items():
            if digest(algorithm, data.data) != stated:
                return f"damaged ({algorithm} differs from index.json's)"
        offsets = sample_offsets(data, shard.num_samples, len(data))
        spans = spans_of(shard_layout(shard, samples), data, *offsets)
        found = content_lengths(data, spans, samples, tokenizer)
        if not np.array_equal(found, lengths):
            document = int(np.flatnonzero(found != lengths)[0])
            return f"document {document}: {found[document]} tokens, lengths.npy says {lengths[document]}"
        content_ids(data, spans, samples, lengths)
    except FileNotFoundError:
        return "missing"
    except ValueError as error:
        return str(error)
    return None


def shard_header_problem(files: ShardFiles, shard: Shard) -> str | None:
    """Return what is wrong with a shard by its size and header, or None; reads a few bytes of it."""
    raw = shard.raw
    stored = shard.compressed if shard.compressed and not files.exists(raw.basename) else raw
    try:
        found_bytes = files.size(stored.basename)
    except FileNotFoundError:
        return "missing"
    if found_bytes != stored.bytes:
        return f"{found_bytes:,} bytes, index.json says {stored.bytes:,} (truncated or damaged)"
    if stored is raw and shard.num_samples and found_bytes >= 4 * (shard.num_samples + 2):
        first = files.read(raw.basename, 0, 4)
        last = files.read(raw.basename, 4 * (shard.num_samples + 1), 4 * (shard.num_samples + 2))
        if [*first.view("<u4"), *last.view("<u4")] != [shard.num_samples, found_bytes]:
            return "its header is not that of the shard in index.json (damaged, or another shard)"
    return None


def check_shards(split: Split, most_bytes: int) -> tuple[list[str], int, int]:
    """Compare the shards of a split in a folder with the sizes and hashes in index.json.

    Those that have been found intact before are not read again. Of more than `most_bytes`, evenly spread shards are
    read. Shards that come through the cache are compared when they arrive, so none is read.

    Args:
        split: with sound sidecars.
        most_bytes: to read.

    Returns:
        A line for each damaged shard, the bytes of the shards that were compared, and those of all shards.
    """
    shards = read_shards(split.path)
    num_bytes = sum(shard.raw.bytes for shard in shards)
    if comes_through_cache(split):
        return [], 0, num_bytes
    folder, step = Path(split.remote or split.path), max(1, -(-num_bytes // most_bytes))
    problems, compared = [], 0
    for shard in tqdm(shards[::step], desc="/".join(split.path.parts[-2:]), unit=" shards", disable=None):
        try:
            problem = damage_once(inside(folder, shard.raw.basename), shard.raw.bytes, shard.raw.hashes)
        except (OSError, ValueError) as error:
            problem = one_line(error)
        if problem is not None:
            problems.append(f"{folder / shard.raw.basename} is damaged ({problem})")
        compared += shard.raw.bytes
    return problems, compared, num_bytes
