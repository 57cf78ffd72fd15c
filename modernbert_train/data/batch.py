"""Batches: rows joined into one long sequence of documents, the form in which the model eats them.

A `PackedBatch` is a plain dict, since that is what Composer and the loader's workers know how to move. Its tensors are
kept row by row, so that it can be cut into micro-batches; `micro_batches` joins the rows of each.
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
    """The rows of one rank (or worker) in one step."""

    input_ids: torch.Tensor  # int32 [rows, row_tokens]
    segment_tokens: torch.Tensor  # int32 [sum of num_segments]
    num_segments: torch.Tensor  # int32 [rows]
    target_positions: torch.Tensor  # int32 [rows, max_targets] within the row
    labels: torch.Tensor  # int32 [rows, max_targets]
    num_targets: torch.Tensor  # int32 [rows]
    num_tokens: torch.Tensor  # int32 [rows]
    max_seqlen: int  # the context: no segment is longer


class MicroBatch(TypedDict):
    """What the model is called with: T = rows * row_tokens tokens, M = rows * max_targets positions."""

    input_ids: torch.Tensor  # int64 [T]
    position_ids: torch.Tensor  # int64 [T] within the segment
    cu_seqlens: torch.Tensor  # int32 [num_segments + 1], from 0 to T
    max_seqlen: int
    target_positions: torch.Tensor  # int64 [M]
    labels: torch.Tensor  # int64 [M] -100 = no target
    num_targets: int
    num_tokens: int
    num_rows: int


def collate(rows: Sequence[Row], context_tokens: int) -> PackedBatch:
    """Stack rows."""
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
    """One batch of the rows of several, in their order."""
    if len(batches) == 1:
        return batches[0]
    tensors = {
        name: torch.cat([batch[name] for batch in batches])  # type: ignore[literal-required]
        for name in PackedBatch.__annotations__
        if name != "max_seqlen"
    }
    return PackedBatch(**tensors, max_seqlen=batches[0]["max_seqlen"])  # type: ignore[typeddict-item]


def micro_batches(batch: PackedBatch, rows: int, pad_id: int) -> list[MicroBatch]:
    """Cut a batch into micro-batches of exactly `rows` rows.

    The last is filled up with rows of padding (no targets, so they add nothing to the loss): a batch-size ramp
    then needs no other shapes than the full batch.
    """
    missing = -len(batch["input_ids"]) % rows
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
    """Rows of nothing but padding, of the shapes of `like`."""
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
    """Segments that cover `tokens` slots of padding, none longer than the context and none empty."""
    full, rest = divmod(tokens, context_tokens)
    return np.array([context_tokens] * full + [rest] * (rest > 0), dtype=np.int32)


def checksum(batch: PackedBatch) -> int:
    """Sum over the rows of the CRC-32 of all that the model sees of a row.

    Equal for equal sets of rows: sums over the ranks can be compared between runs of different world sizes.
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
