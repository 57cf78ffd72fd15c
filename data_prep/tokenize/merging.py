"""Merges finished parts into the store: shards are renamed or joined, sidecars concatenated, the manifest written last.

Every step can be interrupted and repeated: a file with its final name is finished, and the rest follows from the
sidecars of the parts. Small neighbouring shards (the ends of parts, the validation split) are joined, so that many
parts do not make many tiny shards.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep.progress import progress_bar
from data_prep.tokenize.job import Job
from data_prep.tokenize.stages import COUNTS_NAME, TOKENS
from modernbert_train.store.lost_text import TextCounts, check_lost_text
from modernbert_train.store.manifest import (
    SPLIT_NAMES,
    Manifest,
    load_manifest,
    load_tokenizer_info,
    write_manifest,
)
from modernbert_train.store.mds import (
    INDEX_NAME,
    Shard,
    ShardFormat,
    digest,
    read_samples,
    read_shards,
    shard_name,
    write_shards,
)
from modernbert_train.store.split import Split, write_sidecars

# Neighbouring shards smaller than 1/4 of the maximum size are joined
SMALL_FRACTION = 4


class PartShard(NamedTuple):
    """A shard of a part."""

    file: Path
    entry: Shard  # from the part's index.json

    @property
    def num_bytes(self) -> int:
        return self.entry.raw.bytes


def merge(job: Job) -> Manifest:
    """Merge the finished parts of a job and report what could not be read.

    Returns:
        The manifest of the finished store.

    Raises:
        ValueError: A source has no document, all its documents are held out, or too much of its text is lost.
    """
    left_out: dict[str, Counter[str]] = {source: Counter(job.left_out[source]) for source in job.inputs}
    texts = dict.fromkeys(job.inputs, TextCounts())
    for number, part in enumerate(job.parts):
        counts = json.loads((job.task_folder(TOKENS, number) / COUNTS_NAME).read_text(encoding="utf-8"))
        left_out[part.source].update(counts["left_out"])
        texts[part.source] += TextCounts(**counts["text"])
        for message in counts["unreadable"]:
            print(f"left out: {message}", file=sys.stderr)
    folders = {source: _part_folders(job, source) for source in job.inputs}
    for source in job.inputs:
        _check_source(source, folders[source], left_out[source])
        check_lost_text(source, texts[source], job.settings.max_lost_text)
    sources = {
        source: {name: _merge_split(job, source, name, parts) for name, parts in splits.items() if parts}
        for source, splits in progress_bar(folders.items(), desc="merging", unit=" sources")
    }
    counted = {source: dict(sorted(counts.items())) for source, counts in left_out.items()}
    write_manifest(
        job.store,
        load_tokenizer_info(job.store),
        sources,
        job.settings.licences,
        counted,
        job.settings.command,
        texts,
    )
    return load_manifest(job.store)


def _part_folders(job: Job, source: str) -> dict[str, list[Path]]:
    """List, for every split, the folders of the parts that have documents of it, in order."""
    numbers = [number for number, part in enumerate(job.parts) if part.source == source]
    return {
        name: [
            folder
            for number in numbers
            if ((folder := job.task_folder(TOKENS, number) / name) / INDEX_NAME).is_file()
        ]
        for name in SPLIT_NAMES
    }


def _check_source(source: str, folders: dict[str, list[Path]], left_out: Counter[str]) -> None:
    if not any(folders.values()):
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items())) or "0 read"
        raise ValueError(f"source {source}: no document with text ({reasons}); check its input")
    if not folders["train"]:
        num_documents = sum(len(np.load(folder / "lengths.npy")) for folder in folders["valid"])
        raise ValueError(
            f"source {source}: all {num_documents} documents are held out; "
            "lower --valid-fraction or add documents"
        )


def _merge_split(job: Job, source: str, name: str, parts: list[Path]) -> Split:
    folder = job.store / source / name
    folder.mkdir(parents=True, exist_ok=True)
    shards = [PartShard(part / entry.raw.basename, entry) for part in parts for entry in read_shards(part)]
    shard_format = ShardFormat(job.dtype, job.settings.shard_bytes)
    entries = [
        _place_shards(group, folder, number, shard_format)
        for number, group in enumerate(_groups(shards, job.settings.shard_bytes))
    ]
    write_shards(folder, entries)
    blocks = np.concatenate([np.load(part / "blocks.npy") for part in parts])
    scratch = job.work / "lengths.npy"
    lengths = _join_lengths(parts, scratch, int(blocks[:, 0].sum()))
    split = write_sidecars(folder, lengths, blocks, np.array([entry.num_samples for entry in entries]))
    scratch.unlink()
    return split


def _groups(shards: Iterable[PartShard], shard_bytes: int) -> Iterator[list[PartShard]]:
    """Group neighbouring shards that become one: small ones while they fit together, others alone."""
    group: list[PartShard] = []
    for shard in shards:
        fits = sum(member.num_bytes for member in (*group, shard)) <= shard_bytes
        if group and not (
            fits and all(member.num_bytes < shard_bytes // SMALL_FRACTION for member in (group[0], shard))
        ):
            yield group
            group = []
        group.append(shard)
    if group:
        yield group


def _place_shards(group: list[PartShard], folder: Path, number: int, shard_format: ShardFormat) -> Shard:
    """Rename or join shards to the final shard `number`, unless it exists; return its entry in index.json."""
    final = folder / shard_name(number)
    if len(group) == 1:
        file, entry = group[0]
        if not final.exists():
            file.rename(final)
        return shard_format.shard(number, entry.num_samples, entry.raw.bytes, entry.raw.hashes["sha1"])
    if final.exists():
        data = final.read_bytes()
        num_samples = sum(shard.entry.num_samples for shard in group)
        return shard_format.shard(number, num_samples, len(data), digest("sha1", data))
    samples = [sample for shard in group for sample in read_samples(shard.file)]
    return shard_format.write(folder, number, samples)


def _join_lengths(parts: list[Path], scratch: Path, num_documents: int) -> np.ndarray:
    """Concatenate the lengths of all parts in a memory-mapped file: uint32 [num_documents]."""
    lengths = np.lib.format.open_memmap(scratch, "w+", np.uint32, (num_documents,))
    first = 0
    for part in parts:
        part_lengths = np.load(part / "lengths.npy")
        lengths[first : first + len(part_lengths)] = part_lengths
        first += len(part_lengths)
    return lengths
