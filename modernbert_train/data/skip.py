"""Skipped documents: they stay in the plan, but their slots become padding.

Rows, order, and the targets of all other documents do not change, because a row gets its targets before skipped
documents are removed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from modernbert_train.common.text import did_you_mean
from modernbert_train.common.types import Bool, Int64
from modernbert_train.config import SkipConfig
from modernbert_train.config.skip import join_ranges, parse_documents
from modernbert_train.data.plan import ShuffleBlock
from modernbert_train.objectives import IGNORE_INDEX, Row
from modernbert_train.store.split import Split

# Source -> [num_ranges, 2] first document and one past the last; ascending and disjoint.
SkippedDocuments = Mapping[str, Int64]


def load_skipped_documents(skip: SkipConfig, train: Mapping[str, Split]) -> dict[str, Int64]:
    """Read the skipped documents of a recipe and of its file of documents.

    Args:
        skip: `data.skip` of the recipe.
        train: Source -> training split.

    Returns:
        Source -> ranges of documents, for sources with skipped documents only.

    Raises:
        ValueError: The file cannot be read, a line is not a document, a source is unknown, or a source has fewer
            documents.
    """
    ranges: dict[str, list[range]] = {}
    for where, text in _entries(skip):
        try:
            source, numbers = parse_documents(text)
        except ValueError as error:
            raise ValueError(f"{where} has {text!r}: {error}") from None
        if source not in train:
            hint = did_you_mean(source, list(train)) or f"; the sources are {', '.join(train)}"
            raise ValueError(f"{where} has {text!r}: there is no source {source!r} in data.sources{hint}")
        if numbers.stop > train[source].num_documents:
            raise ValueError(
                f"{where} has {text!r}: {source} has {train[source].num_documents:,} documents for training, "
                f"counted from 0: the last is {source}:{train[source].num_documents - 1}"
            )
        ranges.setdefault(source, []).append(numbers)
    return {
        source: np.array([(part.start, part.stop) for part in join_ranges(named)], dtype=np.int64)
        for source, named in ranges.items()
    }


def _entries(skip: SkipConfig) -> Iterator[tuple[str, str]]:
    """Yield (where it is written, text) of each entry."""
    yield from (("data.skip.documents", text) for text in skip.documents)
    if skip.documents_file is None:
        return
    try:
        lines = Path(skip.documents_file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"data.skip.documents_file is {skip.documents_file}, which cannot be read ({error}); "
            "name a text file with one document per line, such as web:17"
        ) from None
    for number, line in enumerate(lines, start=1):
        if text := line.partition("#")[0].strip():
            yield f"{skip.documents_file}, line {number},", text


def find_skipped(shuffle_block: ShuffleBlock, skipped: SkippedDocuments) -> Bool | None:
    """Return which pieces of a shuffle block belong to skipped documents, [num_pieces]; None if no piece does."""
    if not skipped:
        return None
    found = np.zeros(len(shuffle_block.piece_document), dtype=bool)
    source_of_block = np.array([source for source, _ in shuffle_block.blocks], dtype=np.str_)
    for source, ranges in skipped.items():
        pieces = np.flatnonzero((source_of_block == source)[shuffle_block.piece_block])
        found[pieces] = _within(shuffle_block.piece_document[pieces], ranges)
    return found if found.any() else None


def is_skipped(skipped: SkippedDocuments, source: str, document: int) -> bool:
    """Check whether a document is skipped."""
    return source in skipped and bool(_within(np.array([document]), skipped[source])[0])


def _within(numbers: Int64, ranges: Int64) -> Bool:
    at = np.searchsorted(ranges[:, 0], numbers, side="right") - 1
    return (at >= 0) & (numbers < ranges[at, 1])


def without_pieces(row: Row, skipped: Bool, pad_id: int) -> Row:
    """Replace pieces of a row by padding and drop their targets.

    Args:
        row: A row with its targets.
        skipped: [num_pieces] True for pieces to replace; the pieces are the first segments of the row.
        pad_id: Token id of [PAD].

    Returns:
        A new row of the same shapes.
    """
    tokens = row["segment_tokens"][: len(skipped)]
    slots = np.zeros(len(row["input_ids"]), dtype=bool)
    slots[: tokens.sum()] = np.repeat(skipped, tokens)
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
