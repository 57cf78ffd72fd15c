"""Documents that are in the plan and shall not be trained on: their place in a row becomes padding.

Everything else stays as it is: the rows, the order, and the masks of all other documents, since a row is masked first
and emptied afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from modernbert_train.common.text import did_you_mean
from modernbert_train.common.types import Bool, Int64
from modernbert_train.config import SkipConfig
from modernbert_train.config.skip import join_ranges, parse_documents
from modernbert_train.data.plan import Window
from modernbert_train.objectives import IGNORE_INDEX, Row
from modernbert_train.store.split import Split

SkippedDocuments = Mapping[
    str, Int64
]  # source -> [num_ranges, 2] first and one past the last, ascending, disjoint


def load_skipped_documents(skip: SkipConfig, train: Mapping[str, Split]) -> dict[str, Int64]:
    """What the recipe and its file of documents name; sources without any are left out.

    ValueError: a file that is not there or a line of it that is no document, an unknown source, a number that the
    source does not have.
    """
    ranges: dict[str, list[range]] = {}
    for place, text in _named(skip):
        try:
            source, numbers = parse_documents(text)
        except ValueError as error:
            raise ValueError(f"{place} has {text!r}: {error}") from None
        if source not in train:
            hint = did_you_mean(source, list(train)) or f"; there is {', '.join(train)}"
            raise ValueError(f"{place} has {text!r}: there is no source {source!r} in data.sources{hint}")
        if numbers.stop > train[source].num_documents:
            raise ValueError(
                f"{place} has {text!r}: {source} has {train[source].num_documents:,} documents for training, "
                f"counted from 0: the last is {source}:{train[source].num_documents - 1}"
            )
        ranges.setdefault(source, []).append(numbers)
    return {
        source: np.array([(part.start, part.stop) for part in join_ranges(of_source)], dtype=np.int64)
        for source, of_source in ranges.items()
    }


def _named(skip: SkipConfig) -> Iterator[tuple[str, str]]:
    """Where a document is named, and how."""
    yield from (("data.skip.documents", text) for text in skip.documents)
    if skip.documents_file is None:
        return
    try:
        lines = Path(skip.documents_file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"data.skip.documents_file is {skip.documents_file}, which cannot be read ({error}); "
            "name a text file with one document a line, such as web:17"
        ) from None
    for number, line in enumerate(lines, start=1):
        if text := line.partition("#")[0].strip():
            yield f"{skip.documents_file}, line {number},", text


def find_skipped(window: Window, skipped: SkippedDocuments) -> Bool | None:
    """Which pieces of a window belong to such a document: [num_pieces]; None: not one of them."""
    if not skipped:
        return None
    found = np.zeros(len(window.piece_document), dtype=bool)
    source_of_block = np.array([source for source, _ in window.blocks], dtype=np.str_)
    for source, ranges in skipped.items():
        pieces = np.flatnonzero((source_of_block == source)[window.piece_block])
        found[pieces] = _within(window.piece_document[pieces], ranges)
    return found if found.any() else None


def is_skipped(skipped: SkippedDocuments, source: str, document: int) -> bool:
    """Whether one document is among them."""
    return source in skipped and bool(_within(np.array([document]), skipped[source])[0])


def _within(numbers: Int64, ranges: Int64) -> Bool:
    at = np.searchsorted(ranges[:, 0], numbers, side="right") - 1
    return (at >= 0) & (numbers < ranges[at, 1])


def without_pieces(row: Row, gone: Bool, pad_id: int) -> Row:
    """A masked row in which some pieces are padding. `gone`: [num_pieces] of the row, its first segments."""
    tokens = row["segment_tokens"][: len(gone)]
    slots = np.zeros(len(row["input_ids"]), dtype=bool)
    slots[: tokens.sum()] = np.repeat(gone, tokens)
    kept = np.flatnonzero(~slots[row["target_positions"][: row["num_targets"]]])
    positions = np.zeros_like(row["target_positions"])
    labels = np.full_like(row["labels"], IGNORE_INDEX)
    positions[: len(kept)] = row["target_positions"][kept]
    labels[: len(kept)] = row["labels"][kept]
    return Row(
        input_ids=np.where(slots, np.int32(pad_id), row["input_ids"]),
        segment_tokens=row["segment_tokens"],
        target_positions=positions,
        labels=labels,
        num_targets=len(kept),
        num_tokens=row["num_tokens"] - int(slots.sum()),
    )
