"""Inputs -> parts, the units of work. Parts depend on the inputs alone, not on the number of workers.

A part holds documents of one source: a range of a large file where the format allows reading from the middle (lines
of plain UTF-8, .parquet, saved datasets, Hub datasets by files), otherwise a whole file, or several small files. Parts
are large enough to fill shards, and small enough to be spread evenly over workers and to lose little work in an
interruption.
"""

import math
import os
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pyarrow
import pyarrow.parquet

from data_prep.inputs.formats import kind_of
from data_prep.inputs.hub import load_hub, load_saved
from data_prep.inputs.reading import Reading
from data_prep.inputs.rows import HUB_PREFIX, Span, is_cut_by_lines
from data_prep.inputs.streams import can_be_cut

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


def stat_input(item: str) -> Input:
    """Return an input with its size and version. A Hub dataset may change: pin it with hf:NAME@REVISION."""
    if item.startswith(HUB_PREFIX):
        num_files = load_hub(item).num_shards
        return Input(item, num_files * MAX_PART_BYTES, f"{num_files} files")
    files = sorted(Path(item).iterdir()) if os.path.isdir(item) else [Path(item)]
    stats = [file.stat() for file in files]
    num_bytes = sum(stat.st_size for stat in stats)
    kind = kind_of(item)
    factor = COMPRESSION if kind is not None and (kind.compression or kind.format == "parquet") else 1
    return Input(item, factor * num_bytes, f"{num_bytes}:{max(stat.st_mtime_ns for stat in stats)}")


def plan_parts(inputs: dict[str, list[Input]], readings: dict[str, Reading]) -> list[Part]:
    """Cut the inputs of all sources into parts, in order.

    Args:
        inputs: of every source.
        readings: how to read every source.

    Returns:
        The parts.
    """
    num_bytes = sum(entry.num_bytes for entries in inputs.values() for entry in entries)
    part_bytes = min(max(num_bytes // MIN_PARTS, MIN_PART_BYTES), MAX_PART_BYTES)
    parts: list[Part] = []
    for source, entries in inputs.items():
        open_spans: list[Span] = []
        open_bytes = 0
        for entry in entries:
            spans = _cut(entry, readings[source], part_bytes)
            for span in spans:
                open_spans.append(span)
                open_bytes += entry.num_bytes // len(spans)
                if open_bytes >= part_bytes or len(spans) > 1:
                    parts.append(Part(source, tuple(open_spans), open_bytes))
                    open_spans, open_bytes = [], 0
        if open_spans:
            parts.append(Part(source, tuple(open_spans), open_bytes))
    return parts


def _cut(entry: Input, reading: Reading, part_bytes: int) -> list[Span]:
    """Cut an input into even spans; a single one where it is small or can only be read from its beginning."""
    item = entry.item
    num_pieces = math.ceil(entry.num_bytes / part_bytes)
    if item.startswith(HUB_PREFIX):
        num_units = num_pieces = entry.num_bytes // MAX_PART_BYTES
    elif num_pieces <= 1:
        return [Span(item)]
    elif os.path.isdir(item):
        num_units = len(load_saved(item))
    elif is_cut_by_lines(item, reading) and can_be_cut(item, reading.encoding):
        num_units = os.path.getsize(item)
    elif (kind := kind_of(item)) is not None and kind.format == "parquet":
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
