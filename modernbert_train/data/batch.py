"""Batches: rows joined into one long sequence of segments, which is the input of the model.

A `PackedBatch` is a plain dict, because Composer and the DataLoader workers can move dicts. Its tensors keep the rows
apart, so that `micro_batches` can cut it; a `MicroBatch` joins its rows into one sequence.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch

from modernbert_train.common.types import Int32
from modernbert_train.objectives import IGNORE_INDEX, Row


class PackedBatch(TypedDict):
    """The rows of one rank (or loader worker) in one step."""

    # int32 [num_rows, row_tokens]
    input_ids: torch.Tensor
    # int32 [sum of num_segments]
    segment_tokens: torch.Tensor
    # int32 [num_rows]
    num_segments: torch.Tensor
    # int32 [num_rows, max_targets] within the row
    target_positions: torch.Tensor
    # int32 [num_rows, max_targets] -100 = no target
    labels: torch.Tensor
    # int32 [num_rows]
    num_targets: torch.Tensor
    # int32 [num_rows] slots that are not padding
    num_tokens: torch.Tensor
    # Context length: no segment is longer.
    max_seqlen: int


class MicroBatch(TypedDict):
    """The model's input: T = num_rows * row_tokens tokens, M = num_rows * max_targets target positions."""

    # int64 [T]
    input_ids: torch.Tensor
    # int64 [T] within the segment
    position_ids: torch.Tensor
    # int32 [num_segments + 1] from 0 to T
    cu_seqlens: torch.Tensor
    max_seqlen: int
    # int64 [M]
    target_positions: torch.Tensor
    # int64 [M] -100 = no target
    labels: torch.Tensor
    num_targets: int
    num_tokens: int
    num_rows: int


def collate(rows: Sequence[Row], context_tokens: int) -> PackedBatch:
    """Stack rows into a batch."""
    return PackedBatch(
        input_ids=_stack([row["input_ids"] for row in rows]),
        segment_tokens=torch.from_numpy(np.concatenate([row["segment_tokens"] for row in rows])),
        num_segments=torch.tensor([len(row["segment_tokens"]) for row in rows], dtype=torch.int32),
        target_positions=_stack([row["target_positions"] for row in rows]),
        labels=_stack([row["labels"] for row in rows]),
        num_targets=torch.tensor([row["num_targets"] for row in rows], dtype=torch.int32),
        num_tokens=torch.tensor([row["num_tokens"] for row in rows], dtype=torch.int32),
        max_seqlen=context_tokens,
    )


def join(batches: Sequence[PackedBatch]) -> PackedBatch:
    """Join batches, keeping the order of their rows."""
    if len(batches) == 1:
        return batches[0]
    tensors = {
        name: torch.cat([batch[name] for batch in batches])  # type: ignore[literal-required]
        for name in PackedBatch.__annotations__
        if name != "max_seqlen"
    }
    return PackedBatch(**tensors, max_seqlen=batches[0]["max_seqlen"])  # type: ignore[typeddict-item]


def micro_batches(
    batch: PackedBatch, rows: int, pad_id: int, most_rows: int | None = None
) -> list[MicroBatch]:
    """Cut a batch into micro-batches of exactly `rows` rows.

    The batch is filled up with rows of padding, which have no targets and so add nothing to the loss. A batch-size
    ramp thus needs no other shapes than the full batch, and ranks with fewer rows do as many micro-batches as others.

    Args:
        batch: The rows of this rank.
        rows: Rows of a micro-batch.
        pad_id: Token id of [PAD].
        most_rows: Rows of the rank that has the most; None: this one.

    Returns:
        The micro-batches in the order of the rows.
    """
    most_rows = len(batch["input_ids"]) if most_rows is None else most_rows
    missing = -(-most_rows // rows) * rows - len(batch["input_ids"])
    if missing:
        batch = join([batch, _empty_rows(missing, batch, pad_id)])
    segment_end = batch["num_segments"].cumsum(0).tolist()
    num_targets, num_tokens = batch["num_targets"].tolist(), batch["num_tokens"].tolist()
    cut = []
    for first in range(0, len(batch["input_ids"]), rows):
        part = slice(first, first + rows)
        segments = batch["segment_tokens"][
            segment_end[first - 1] if first else 0 : segment_end[first + rows - 1]
        ]
        cut.append(_flatten(batch, part, segments, sum(num_targets[part]), sum(num_tokens[part])))
    return cut


def _flatten(
    batch: PackedBatch, part: slice, segments: torch.Tensor, num_targets: int, num_tokens: int
) -> MicroBatch:
    input_ids = batch["input_ids"][part]
    rows, row_tokens = input_ids.shape
    cu_seqlens = torch.zeros(len(segments) + 1, dtype=torch.int32, device=segments.device)
    torch.cumsum(segments, 0, out=cu_seqlens[1:])
    starts = torch.repeat_interleave(cu_seqlens[:-1], segments, output_size=rows * row_tokens)
    row_start = torch.arange(rows, device=segments.device)[:, None] * row_tokens
    return MicroBatch(
        input_ids=input_ids.flatten().long(),
        position_ids=torch.arange(rows * row_tokens, device=segments.device) - starts,
        cu_seqlens=cu_seqlens,
        max_seqlen=batch["max_seqlen"],
        target_positions=(batch["target_positions"][part] + row_start).flatten(),
        labels=batch["labels"][part].flatten().long(),
        num_targets=num_targets,
        num_tokens=num_tokens,
        num_rows=rows,
    )


def _empty_rows(count: int, like: PackedBatch, pad_id: int) -> PackedBatch:
    """Build rows of padding with the shapes of `like`."""
    row_tokens, max_targets = like["input_ids"].shape[1], like["labels"].shape[1]
    segments = padding_segments(row_tokens, like["max_seqlen"])
    row = Row(
        input_ids=np.full(row_tokens, pad_id, dtype=np.int32),
        segment_tokens=segments,
        target_positions=np.zeros(max_targets, dtype=np.int32),
        labels=np.full(max_targets, IGNORE_INDEX, dtype=np.int32),
        num_targets=0,
        num_tokens=0,
    )
    return collate([row] * count, like["max_seqlen"])


def padding_segments(tokens: int, context_tokens: int) -> Int32:
    """Return segments that cover `tokens` slots of padding, each of 1 to `context_tokens` tokens."""
    full, rest = divmod(tokens, context_tokens)
    return np.array([context_tokens] * full + [rest] * (rest > 0), dtype=np.int32)


def checksum(batch: PackedBatch) -> int:
    """Return the sum over the rows of the CRC-32 of everything that the model sees of a row.

    Equal sets of rows have equal checksums, so sums over the ranks can be compared between runs of different world
    sizes.
    """
    segments = torch.split(batch["segment_tokens"], batch["num_segments"].tolist())
    total = 0
    for row, segment_tokens in enumerate(segments):
        value = zlib.crc32(segment_tokens.numpy())
        for name in ("input_ids", "target_positions", "labels"):
            value = zlib.crc32(batch[name][row].numpy(), value)
        total += value
    return total


def _stack(arrays: Sequence[Int32]) -> torch.Tensor:
    return torch.from_numpy(np.stack(arrays))
