"""Patterns -> inputs -> parts: the pieces of work, fixed by the inputs alone and never by who does them.

A part holds documents of one source: a stretch of a large file where its format can be entered in the middle
(.jsonl, .parquet, saved datasets, hub datasets by files), a whole file elsewhere, or several small files. Parts
are large enough to fill shards, and small enough to be spread evenly and to lose little when one is cut off.
"""

import glob
import json
import math
import os
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pyarrow
import pyarrow.parquet

from data_prep.inputs.rows import ENDINGS, HUB_PREFIX, Span, load_hub, load_saved

MIN_PART_BYTES = 4 << 20  # of text: some seconds of work
MAX_PART_BYTES = 256 << 20  # two shards of 64 MB, 16 bits a token
MIN_PARTS = 64  # of a run, if there is enough text: even work for many processes
COMPRESSION = 3  # text has about three times the bytes of a compressed file


class Part(NamedTuple):
    """Pieces of the inputs of one source, in order."""

    source: str
    spans: tuple[Span, ...]
    num_bytes: int  # of text, estimated: for progress and the order of work


class Input(NamedTuple):
    """A file, a folder or a hub dataset, and what tells whether it is still the same one."""

    item: str
    num_bytes: int  # of text, estimated
    version: str


def resolve_inputs(patterns: Iterable[str]) -> list[str]:
    """Files, dataset folders and hub ids that the patterns name, each once, files in sorted order.

    A folder of text names all .txt files in it and below.
    ValueError: a pattern without a match, a file of an unknown kind, a folder without text.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        if pattern.startswith(HUB_PREFIX):
            found[pattern] = None
            continue
        expanded = os.path.expanduser(pattern)
        matches = [expanded] if os.path.exists(expanded) else sorted(glob.glob(expanded, recursive=True))
        if not matches:
            raise ValueError(f"input: no file matches {pattern!r}; check the path, and quote the pattern")
        for path in matches:
            found.update(dict.fromkeys(_files_of(path)))
    return list(found)


def _files_of(path: str) -> list[str]:
    if not os.path.isdir(path):
        if not path.endswith(ENDINGS):
            raise ValueError(
                f"input: {path} has an unknown ending; allowed: {', '.join(ENDINGS)}, a folder of .txt files or "
                "one that datasets.save_to_disk wrote, and hf:NAME[:CONFIG][:SPLIT]"
            )
        return [path]
    if os.path.exists(os.path.join(path, "dataset_dict.json")):
        splits = json.loads(Path(path, "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        raise ValueError(f"input: {path} holds the splits {', '.join(splits)}; name one: {path}/{splits[0]}")
    if os.path.exists(os.path.join(path, "state.json")):
        return [path]
    texts = sorted(str(file) for file in Path(path).rglob("*.txt"))
    if not texts:
        raise ValueError(
            f"input: {path} is a folder without .txt files, and not one that datasets.save_to_disk wrote; name "
            f"its files with a pattern, such as '{path}/**/*.jsonl'"
        )
    return texts


def stat_input(item: str) -> Input:
    """Size and version of an input. A hub dataset may change: name a revision (hf:NAME@REVISION) to pin it."""
    if item.startswith(HUB_PREFIX):
        num_files = load_hub(item).num_shards
        return Input(item, num_files * MAX_PART_BYTES, f"{num_files} files")
    files = sorted(Path(item).iterdir()) if os.path.isdir(item) else [Path(item)]
    stats = [file.stat() for file in files]
    num_bytes = sum(stat.st_size for stat in stats)
    factor = COMPRESSION if item.endswith((".gz", ".zst", ".parquet")) else 1
    return Input(item, factor * num_bytes, f"{num_bytes}:{max(stat.st_mtime_ns for stat in stats)}")


def plan_parts(inputs: dict[str, list[Input]]) -> list[Part]:
    """Parts of all sources in the order of the inputs."""
    num_bytes = sum(entry.num_bytes for entries in inputs.values() for entry in entries)
    part_bytes = min(max(num_bytes // MIN_PARTS, MIN_PART_BYTES), MAX_PART_BYTES)
    parts: list[Part] = []
    for source, entries in inputs.items():
        open_spans: list[Span] = []
        open_bytes = 0
        for entry in entries:
            spans = _cut(entry, part_bytes)
            for span in spans:
                open_spans.append(span)
                open_bytes += entry.num_bytes // len(spans)
                if open_bytes >= part_bytes or len(spans) > 1:
                    parts.append(Part(source, tuple(open_spans), open_bytes))
                    open_spans, open_bytes = [], 0
        if open_spans:
            parts.append(Part(source, tuple(open_spans), open_bytes))
    return parts


def _cut(entry: Input, part_bytes: int) -> list[Span]:
    """Even stretches of an input, or all of it where it is small or cannot be entered in the middle."""
    item = entry.item
    num_pieces = math.ceil(entry.num_bytes / part_bytes)
    if item.startswith(HUB_PREFIX):
        num_units = num_pieces = entry.num_bytes // MAX_PART_BYTES
    elif num_pieces <= 1:
        return [Span(item)]
    elif os.path.isdir(item):
        num_units = len(load_saved(item))
    elif item.endswith(".jsonl"):
        num_units = os.path.getsize(item)
    elif item.endswith(".parquet"):
        num_units = _num_row_groups(item)
    else:
        return [Span(item)]
    num_pieces = min(num_pieces, num_units)
    if num_pieces <= 1:
        return [Span(item)]
    ends = [num_units * piece // num_pieces for piece in range(num_pieces + 1)]
    return [Span(item, first, last) for first, last in pairwise(ends)]


def _num_row_groups(path: str) -> int:
    try:
        return int(pyarrow.parquet.read_metadata(path).num_row_groups)
    except (OSError, pyarrow.ArrowException):
        return 1  # the reader says what is wrong
