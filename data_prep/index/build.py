"""Builds a manifest and sidecars for an external MDS store. Its shards stay where they are.

How much of a shard is read depends on its columns:

    ids are the only column of variable size, uncompressed      the header: 4 bytes per document
    other columns of variable size (such as `id`)               the whole shard: sizes are stored with each document
    compressed, padded, of fixed length, dtype in each array    the whole shard

Shards are read in order, a few ahead. Finished shards are recorded, so that the same command resumes after them.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from data_prep.index.detection import detect_samples, reads_whole
from data_prep.index.external_store import ExternalSplit, find_splits
from data_prep.index.partial_sidecars import PARTS, PartialSidecars
from data_prep.progress import progress_bar
from data_prep.sources import check_known_sources, check_source_name
from data_prep.tokenizer import add_tokenizer
from modernbert_train.common.types import Int64
from modernbert_train.store.external import (
    SampleLayout,
    content_lengths,
    counts_in_header,
    sample_offsets,
    shard_layout,
    spans_of,
)
from modernbert_train.store.files import ShardFiles
from modernbert_train.store.manifest import (
    MANIFEST_NAME,
    TOKENIZER_FILES,
    Manifest,
    Split,
    TokenizerInfo,
    is_store,
    load_manifest,
    load_tokenizer_info,
    write_manifest,
)
from modernbert_train.store.mds import INDEX_NAME, Shard
from modernbert_train.store.names import to_write
from modernbert_train.store.published_tokenizer import check_tokenizer
from modernbert_train.store.split import SIDECARS, load_split

MARKER_NAME = "INDEXING"  # file with the settings of an unfinished index
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class IndexSettings:
    """Everything that affects the index of a store."""

    store: str  # folder or URL
    tokenizer: str  # folder
    source: str | None  # name of the single source; None if folders are sources
    column: str  # name of the column of the ids
    bytes_dtype: str | None  # dtype of the ids if the column holds bytes
    strip: tuple[str, ...] | None  # special tokens to strip (see SampleLayout); None to detect them
    skip_unreadable: bool


def index_store(
    settings: IndexSettings,
    out: Path,
    *,
    licences: dict[str, str],
    workers: int,
    overwrite: bool,
    command: str,
) -> Manifest:
    """Write manifest, sidecars and tokenizer of an external store.

    Args:
        settings: of the index.
        out: folder to write to.
        licences: source -> note.
        workers: number of shards read at once.
        overwrite: whether to replace a finished index.
        command: for the manifest.

    Returns:
        The manifest.

    Raises:
        ValueError: The store, the tokenizer, the output folder or an option cannot be used.
    """
    if workers < 1:
        raise ValueError(f"workers: {workers} must be at least 1")
    tokenizer = load_tokenizer_info(settings.tokenizer)
    check_tokenizer(tokenizer, is_tokenized=True)
    files = ShardFiles(settings.store)
    found = find_splits(files, settings.source)
    _check_names(found, licences)
    _start(out, overwrite, f"{settings}, {tokenizer.fingerprint}")
    if tokenizer.path.resolve() != out.resolve():
        add_tokenizer(tokenizer, out)
    sources: dict[str, dict[str, Split]] = {}
    left_out: dict[str, dict[str, int]] = {}
    for source, splits in found.items():
        sources[source] = {}
        for name, split in splits.items():
            samples = detect_samples(
                files,
                split,
                f"{source}/{name}",
                tokenizer,
                settings.column,
                settings.bytes_dtype,
                settings.strip,
            )
            indexed = _index_split(
                files,
                split,
                to_write(out, f"{source}/{name}"),
                samples,
                tokenizer,
                workers,
                settings.skip_unreadable,
            )
            sources[source][name] = replace(
                indexed, remote=_address(files, split, out), sample_layout=samples
            )
        num_empty = sum(_num_empty(split) for split in sources[source].values())
        left_out[source] = {"empty": num_empty} if num_empty else {}
    write_manifest(out, tokenizer, sources, licences, left_out, command)
    (out / MARKER_NAME).unlink()
    return load_manifest(out)


def _check_names(found: dict[str, dict[str, ExternalSplit]], licences: dict[str, str]) -> None:
    for source in found:
        check_source_name(source, "source:", "; name the source with --source")
    check_known_sources(licences, found, "licence")


def _start(out: Path, overwrite: bool, settings: str) -> None:
    """Mark `out` as unfinished; delete the unfinished work of an index with other settings."""
    if (out / MANIFEST_NAME).exists():
        if not is_store(out):
            raise ValueError(
                f"out: {out}/{MANIFEST_NAME} is not a store's manifest; name another folder with --out"
            )
        if not overwrite:
            raise ValueError(
                f"out: {out} is finished; replace it with --overwrite, or name another folder with --out"
            )
    out.mkdir(parents=True, exist_ok=True)
    for name in (MARKER_NAME, MANIFEST_NAME, *TOKENIZER_FILES):
        to_write(out, name)
    marker = out / MARKER_NAME
    if not marker.is_file() or marker.read_text(encoding="utf-8") != settings:
        for part in out.glob("*/*/*.part"):
            part.unlink()
        for sidecar in out.glob(f"*/*/{SIDECARS[0]}"):
            (sidecar.parent / INDEX_NAME).unlink(missing_ok=True)
        marker.write_text(settings, encoding="utf-8")
    (out / MANIFEST_NAME).unlink(missing_ok=True)


def _address(files: ShardFiles, split: ExternalSplit, out: Path) -> str:
    """Return the location of the shards for the manifest.

    Returns:
        A URL; a path relative to `out` if one folder contains the other; otherwise an absolute path.
    """
    if files.folder is None:
        return f"{files.root}/{split.folder}".rstrip("/")
    store, out = files.folder.resolve(), out.resolve()
    shards = store / split.folder
    nested = out.is_relative_to(store) or store.is_relative_to(out)
    return os.path.relpath(shards, out) if nested else str(shards)


def _index_split(
    files: ShardFiles,
    split: ExternalSplit,
    folder: Path,
    samples: SampleLayout,
    tokenizer: TokenizerInfo,
    workers: int,
    skip_unreadable: bool,
) -> Split:
    if (folder / INDEX_NAME).exists():
        if not (folder / SIDECARS[0]).exists():
            raise ValueError(
                f"out: {folder} is a folder of the external store; name another folder with --out"
            )
        return load_split(folder)  # finished by an earlier run
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*SIDECARS, *PARTS):
        to_write(folder, name)
    parts = PartialSidecars(folder)

    def lengths_of(number: int) -> Int64 | ValueError:
        try:
            return shard_lengths(files, split.folder, split.shards[number], samples, tokenizer)
        except (ValueError, FileNotFoundError) as error:
            name = split.shards[number].raw.basename
            return ValueError(f"store: {files.root}/{split.folder}/{name}: {error}")

    todo = range(parts.next_shard, len(split.shards))
    with (
        ThreadPoolExecutor(workers) as pool,
        progress_bar(
            desc="/".join(folder.parts[-2:]), total=len(split.shards), initial=todo.start, unit=" shards"
        ) as bar,
    ):
        for number, lengths in zip(todo, _in_order(pool, lengths_of, todo, ahead=workers), strict=True):
            if isinstance(lengths, Exception):
                if not skip_unreadable:
                    raise ValueError(
                        f"{lengths}; restore the shard, or leave such shards out with --skip-unreadable"
                    )
                tqdm.write(f"left out: {lengths}")
            else:
                parts.add(number, lengths)
            bar.set_postfix_str(f"{parts.num_tokens:,} tokens", refresh=False)
            bar.update()
    return parts.finish(split.shards)


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """Apply a function to all items in a pool and yield the results in order, at most `ahead` items in advance."""
    running: deque[Future[Result]] = deque()
    for item in items:
        running.append(pool.submit(function, item))
        if len(running) > ahead:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def shard_lengths(
    files: ShardFiles, folder: str, shard: Shard, samples: SampleLayout, tokenizer: TokenizerInfo
) -> Int64:
    """Count the content tokens of every document of a shard, which must be readable."""
    layout, shard = shard_layout(shard, samples), shard.below(folder)
    raw, num_samples = shard.raw, shard.num_samples
    if "pad" not in samples.strip and not reads_whole(files, shard, layout):
        header = files.read(raw.basename, 0, 4 * (num_samples + 2))
        starts, ends = sample_offsets(header, num_samples, raw.bytes)
        num_specials = sum(special in samples.strip for special in ("cls", "sep"))
        return np.maximum(counts_in_header(layout, starts, ends) - num_specials, 0)
    data = files.read_shard(shard)
    spans = spans_of(layout, data, *sample_offsets(data, num_samples, raw.bytes))
    return content_lengths(data, spans, samples, tokenizer)


def _num_empty(split: Split) -> int:
    return split.num_documents - sum(int(np.count_nonzero(part)) for part in split.lengths_in_parts())
