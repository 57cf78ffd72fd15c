"""Patterns -> inputs -> parts, the units of work. Parts depend on the inputs alone, not on the number of workers.

A part holds documents of one source: a range of a large file where the format allows reading from the middle (.jsonl,
.parquet, saved datasets, Hub datasets by files), otherwise a whole file, or several small files. Parts are large
enough to fill shards, and small enough to be spread evenly over workers and to lose little work in an interruption.
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
MAX_PART_BYTES = 256 << 20  # of text: two shards of 64 MB at 16 bits per token
MIN_PARTS = 64  # number of parts if there is enough text: even work for many processes
COMPRESSION = 3  # assumed ratio of the size of text to that of a compressed file


class Part(NamedTuple):
    """Spans of the inputs of one source, in order."""

    source: str
    spans: tuple[Span, ...]
    num_bytes: int  # estimated bytes of text, for the progress bar and the order of work


class Input(NamedTuple):
    """A file, a folder or a Hub dataset."""

    item: str
    num_bytes: int  # estimated bytes of text
    version: str  # changes with the content (size and modification time; number of files of a Hub dataset)


def resolve_inputs(patterns: Iterable[str]) -> list[str]:
    """Resolve patterns to files, dataset folders and Hub ids, each once, the matches of a pattern sorted.

    A folder stands for all .txt files below it.

    Returns:
        The inputs in the order of the patterns.

    Raises:
        ValueError: A pattern matches nothing, a file has an unknown ending, or a folder holds no text.
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
                f"input: {path} has an unknown ending; allowed: {', '.join(ENDINGS)}, a folder of .txt files, a "
                "folder written by datasets.save_to_disk, and hf:NAME[@REVISION][:CONFIG][:SPLIT]"
            )
        return [path]
    if os.path.exists(os.path.join(path, "dataset_dict.json")):
        splits = json.loads(Path(path, "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        raise ValueError(
            f"input: {path} is a dataset with the splits {', '.join(splits)}; name one: {path}/{splits[0]}"
        )
    if os.path.exists(os.path.join(path, "state.json")):
        return [path]
    texts = sorted(str(file) for file in Path(path).rglob("*.txt"))
    if not texts:
        raise ValueError(
            f"input: {path} is a folder without .txt files and was not written by datasets.save_to_disk; name "
            f"its files with a pattern, such as '{path}/**/*.jsonl'"
        )
    return texts


def stat_input(item: str) -> Input:
    """Return an input with its size and version. A Hub dataset may change: pin it with hf:NAME@REVISION."""
    if item.startswith(HUB_PREFIX):
        num_files = load_hub(item).num_shards
        return Input(item, num_files * MAX_PART_BYTES, f"{num_files} files")
    files = sorted(Path(item).iterdir()) if os.path.isdir(item) else [Path(item)]
    stats = [file.stat() for file in files]
    num_bytes = sum(stat.st_size for stat in stats)
    factor = COMPRESSION if item.endswith((".gz", ".zst", ".parquet")) else 1
    return Input(item, factor * num_bytes, f"{num_bytes}:{max(stat.st_mtime_ns for stat in stats)}")


def plan_parts(inputs: dict[str, list[Input]]) -> list[Part]:
    """Cut the inputs of all sources into parts, in order."""
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
    """Cut an input into even spans; a single one where it is small or can only be read from its beginning."""
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
        return 1  # the reader reports the error
