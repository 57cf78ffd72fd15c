"""Texts of several sources -> a finished token store; modernbert_train/data/manifest.py says what it holds.

An unfinished store holds a marker and no manifest.json: training refuses it, the next run starts it afresh.
"""

import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from data_prep.encoding import EncodedBatch, open_encoder
from data_prep.readers import HUB_PREFIX, read_texts, resolve_inputs
from data_prep.tokenizer import SPECIAL_TOKENS, write_tokenizer_config
from data_prep.writer import SplitWriter
from modernbert_train.data.manifest import (
    MANIFEST_NAME,
    SPLIT_NAMES,
    TOKENIZER_FILES,
    Manifest,
    Split,
    TokenizerInfo,
    is_store,
    load_manifest,
    load_tokenizer_info,
    token_dtype,
    write_manifest,
)

MARKER_NAME = "UNFINISHED"  # in a store from its first moment to its manifest
SOURCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

TextsEncoder = Callable[[Iterable[str]], Iterator[EncodedBatch]]


def tokenize_to_store(
    store: Path,
    tokenizer: str,
    inputs: dict[str, list[str]],
    *,
    text_field: str,
    valid_fraction: float,
    licences: dict[str, str],
    shard_bytes: int,
    workers: int,
    overwrite: bool,
    command: str,
) -> Manifest:
    """Tokenize `inputs` (source -> patterns) into `store`. Its bytes do not depend on the number of workers.

    ValueError: settings, inputs and documents that cannot be used, each in one line.
    """
    _check_settings(inputs, licences, valid_fraction, workers, shard_bytes)
    items = {source: resolve_inputs(patterns) for source, patterns in inputs.items()}
    info = load_tokenizer_info(tokenizer)
    _check_apart(store, info.path, chain.from_iterable(items.values()))
    _start_store(store, overwrite)
    copy_tokenizer(info, store)
    sources: dict[str, dict[str, Split]] = {}
    skipped_empty: dict[str, int] = {}
    dtype = token_dtype(info.vocab_size)
    with open_encoder(store / "tokenizer.json", dtype, valid_fraction, workers) as encode:
        for source in items:
            texts = chain.from_iterable(read_texts(item, text_field) for item in items[source])
            sources[source], skipped_empty[source] = _tokenize_source(
                source, texts, encode, store / source, dtype, shard_bytes
            )
    write_manifest(store, info, sources, licences, skipped_empty, command)
    (store / MARKER_NAME).unlink()
    return load_manifest(store)


def _check_settings(
    inputs: dict[str, list[str]],
    licences: dict[str, str],
    valid_fraction: float,
    workers: int,
    shard_bytes: int,
) -> None:
    for source in inputs:
        if not SOURCE_NAME.fullmatch(source):
            raise ValueError(
                f"input: source {source!r} must be letters, digits, '_', '-' and '.' (a folder's name)"
            )
    unknown = sorted(set(licences) - set(inputs))
    if unknown:
        raise ValueError(f"licence: no input is named {unknown[0]!r}; sources: {', '.join(inputs)}")
    if not 0 <= valid_fraction < 1:
        raise ValueError(f"valid-fraction: {valid_fraction} must be at least 0 and below 1")
    if workers < 1:
        raise ValueError(f"workers: {workers} must be at least 1")
    if not 0 < shard_bytes < 1 << 32:
        raise ValueError(
            f"shard-megabytes: {shard_bytes >> 20} must be from 1 to 4095 (offsets have 32 bits)"
        )


def _check_apart(store: Path, tokenizer: Path, items: Iterable[str]) -> None:
    """What is read must not lie in the store, which is emptied first."""
    for path in (tokenizer, *(Path(item) for item in items if not item.startswith(HUB_PREFIX))):
        if path.resolve().is_relative_to(store.resolve()):
            raise ValueError(f"store: {store} must not hold what is read ({path}); name another folder")


def _start_store(store: Path, overwrite: bool) -> None:
    """Make an empty folder with the marker in it. Only what is, or was to become, a store is ever deleted."""
    if is_store(store):
        if not overwrite:
            raise ValueError(
                f"store: {store} is finished; name another folder, or replace it with --overwrite"
            )
        (store / MARKER_NAME).touch()
        (store / MANIFEST_NAME).unlink()  # first, so that no half-deleted store passes for a whole one
    if store.exists():
        if not store.is_dir():
            raise ValueError(f"store: {store} is a file; name a new folder")
        if any(store.iterdir()) and not (store / MARKER_NAME).exists():
            raise ValueError(
                f"store: {store} holds files that are no token store's; name a new or empty folder"
            )
        for path in store.iterdir():
            if path.name == MARKER_NAME:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    store.mkdir(parents=True, exist_ok=True)
    (store / MARKER_NAME).touch()


def copy_tokenizer(info: TokenizerInfo, folder: Path) -> None:
    """Copy the tokenizer's files as they stand; a missing tokenizer_config.json is made, a minimal one."""
    for name in TOKENIZER_FILES:
        if (info.path / name).is_file():
            shutil.copyfile(info.path / name, folder / name)
    if not (folder / "tokenizer_config.json").is_file():
        # without a config load_tokenizer_info finds the special tokens by ModernBERT's names
        roles = [role for role in SPECIAL_TOKENS if role != "unk" or info.unk_id is not None]
        write_tokenizer_config(folder, {role: SPECIAL_TOKENS[role] for role in roles})


def _tokenize_source(
    source: str, texts: Iterable[str], encode: TextsEncoder, folder: Path, dtype: str, shard_bytes: int
) -> tuple[dict[str, Split], int]:
    """Write the splits of one source; the splits that have documents, and the number of empty documents."""
    writers = {name: SplitWriter(folder / name, dtype, shard_bytes) for name in SPLIT_NAMES}
    num_tokens = num_empty = 0
    start = time.monotonic()
    with tqdm(desc=source, unit=" documents", unit_scale=True) as bar:
        for batch in encode(texts):
            num_empty += _write_batch(batch, writers)
            num_tokens += len(batch.ids)
            tokens_per_s = num_tokens / (time.monotonic() - start)
            bar.set_postfix_str(f"{num_tokens:,} tokens, {tokens_per_s:,.0f} tokens/s", refresh=False)
            bar.update(len(batch.lengths))
    finished = {name: writer.finish() for name, writer in writers.items()}
    splits = {name: split for name, split in finished.items() if split is not None}
    if not splits:
        raise ValueError(f"source {source}: no document with text ({num_empty} empty ones); check its input")
    if "train" not in splits:
        raise ValueError(
            f"source {source}: all {splits['valid'].num_documents} documents are held out; "
            "lower --valid-fraction or add documents"
        )
    return splits, num_empty


def _write_batch(batch: EncodedBatch, writers: dict[str, SplitWriter]) -> int:
    """Give every document to its split's writer; the number of empty documents, which are left out."""
    ends = batch.lengths.cumsum(dtype="int64")
    num_empty = 0
    for length, end, is_valid in zip(
        batch.lengths.tolist(), ends.tolist(), batch.is_valid.tolist(), strict=True
    ):
        if length == 0:
            num_empty += 1
        else:
            writers["valid" if is_valid else "train"].add(batch.ids[end - length : end])
    return num_empty
