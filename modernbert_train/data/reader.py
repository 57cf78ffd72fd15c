"""Planned rows become token ids and targets: the rows of a shuffle block, of a stream, and of held-out text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from modernbert_train.common.types import Bool, Int64
from modernbert_train.data.batch import MicroBatch, collate, micro_batches, padding_segments
from modernbert_train.data.inputs import Inputs
from modernbert_train.data.plan import (
    SPECIALS_PER_PIECE,
    PhaseRows,
    Position,
    ShuffleBlock,
    evaluation_shuffle_block,
)
from modernbert_train.data.skip import find_skipped, without_pieces
from modernbert_train.objectives import Objective, PlainRow, Row
from modernbert_train.store.split import Split


class ShuffleBlockReader:
    """Reads the tokens of one shuffle block once, and makes its rows."""

    def __init__(self, shuffle_block: ShuffleBlock, splits: Mapping[str, Split], inputs: Inputs) -> None:
        self.shuffle_block = shuffle_block
        self._tokenizer = inputs.tokenizer
        blocks = [inputs.reader.read(splits[source], block) for source, block in shuffle_block.blocks]
        sizes = np.array([len(block) for block in blocks], dtype=np.int64)
        self._tokens = np.concatenate(blocks) if blocks else np.empty(0, dtype=np.uint16)
        first_of_block = np.cumsum(sizes) - sizes
        self._piece_first = first_of_block[shuffle_block.piece_block] + shuffle_block.piece_start

    def row(self, index: int) -> PlainRow:
        """Return a row, with [CLS] before and [SEP] after the content of each piece."""
        row_tokens, context_tokens = self.shuffle_block.row_tokens, self.shuffle_block.context_tokens
        pieces = self.shuffle_block.pieces(index)
        counts = self.shuffle_block.piece_tokens[pieces]
        segments = counts + SPECIALS_PER_PIECE
        ends = np.cumsum(segments)
        starts = ends - segments
        used = int(ends[-1])
        input_ids = np.full(row_tokens, self._tokenizer.pad_id, dtype=np.int32)
        input_ids[starts] = self._tokenizer.cls_id
        input_ids[ends - 1] = self._tokenizer.sep_id
        tokens = self._tokens
        firsts = self._piece_first[pieces].tolist()
        for start, first, count in zip((starts + 1).tolist(), firsts, counts.tolist(), strict=True):
            input_ids[start : start + count] = tokens[first : first + count]
        padding = padding_segments(row_tokens - used, context_tokens)
        return PlainRow(input_ids, np.concatenate([segments.astype(np.int32), padding]), used)


class SequenceReader:
    """Reads the rows of some streams of one sequence, step by step. Holds the tokens of one shuffle block at a time.

    The rows of a step follow each other in the sequence, and the streams of the sequence take equal parts of them.

    Args:
        phase: Plan and objective.
        inputs: The inputs of the recipe.
        streams: Consecutive streams that read the same sequence.
        position: Position of the sequence before the first step to read.
    """

    def __init__(self, phase: PhaseRows, inputs: Inputs, streams: Sequence[int], position: Position) -> None:
        self.plan = phase.plan
        self.streams = streams
        self.position = position
        self._sequence, self._first = divmod(streams[0], phase.plan.streams_per_sequence)
        self._objective = phase.objective
        self._inputs = inputs
        # Number of the shuffle block whose tokens are held.
        self._index: int | None = None
        # Skipped pieces of the shuffle block; None if there are none.
        self._skipped: Bool | None = None
        # Content tokens of each source in each row of the shuffle block, and in the rows read so far.
        self._source_tokens = np.empty((0, len(self.plan.sources)), dtype=np.int64)
        self._taken = np.zeros(len(self.plan.sources), dtype=np.int64)

    def next_rows(self, rows_per_stream: int) -> list[Row]:
        """Read the rows of a step, stream by stream, and move the position past all rows of the step."""
        before, own = self._first * rows_per_stream, len(self.streams) * rows_per_stream
        self._move(before)
        rows = [self._next_row() for _ in range(own)]
        self._move(self.plan.streams_per_sequence * rows_per_stream - before - own)
        return rows

    def take_source_tokens(self) -> Int64:
        """Return the content tokens of each source of the plan in the rows read since the last call."""
        taken, self._taken = self._taken, np.zeros_like(self._taken)
        return taken

    def pass_over(self, rows_per_stream: int) -> None:
        """Move the position past rows without reading them."""
        self._move(self.plan.streams_per_sequence * rows_per_stream)

    def _move(self, rows: int) -> None:
        self.position = self.plan.advance(self._sequence, self.position, rows)

    def _next_row(self) -> Row:
        self._move(1)
        index, row = self.position[0], self.position[1] - 1
        if index != self._index:
            self._open(index)
        key = (*self.plan.key, "mask", self._sequence, index, row)
        self._taken += self._source_tokens[row]
        labelled = self._objective.label(self._block_reader.row(row), self._inputs.masking, key)
        if self._skipped is None:
            return labelled
        skipped = self._skipped[self._block_reader.shuffle_block.pieces(row)]
        return without_pieces(labelled, skipped, self._inputs.tokenizer.pad_id)

    def _open(self, index: int) -> None:
        reader = self._inputs.reader
        if reader.reads_remote:
            for soon in (index, index + 1):
                reader.fetch_ahead(self.plan.sources, self.plan.shards(self._sequence, soon))
        shuffle_block = self.plan.shuffle_block(self._sequence, index)
        self._index = index
        self._skipped = find_skipped(shuffle_block, self._inputs.skipped_documents)
        self._source_tokens = shuffle_block.source_tokens(list(self.plan.sources), self._skipped)
        self._block_reader = ShuffleBlockReader(shuffle_block, self.plan.sources, self._inputs)


def evaluation_batches(
    source: str, inputs: Inputs, objective: Objective, **rows: int
) -> Iterator[MicroBatch]:
    """Yield held-out rows of a source; see `evaluation_rows`."""
    for batch, _ in evaluation_rows(source, inputs, objective, **rows):
        yield batch


def evaluation_rows(
    source: str,
    inputs: Inputs,
    objective: Objective,
    *,
    context_tokens: int,
    row_tokens: int,
    max_rows: int,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[tuple[MicroBatch, Int64]]:
    """Yield held-out rows of a source with targets that depend on (source, row) alone.

    Args:
        source: A source with a held-out split.
        inputs: The inputs of the recipe.
        objective: What to predict.
        context_tokens: Most tokens of a piece.
        row_tokens: Slots of a row.
        max_rows: Most rows over all ranks.
        rank: Rows `rank`, `rank + world_size`, ... are yielded.
        world_size: Number of ranks.

    Yields:
        Micro-batches of one row, and the number of the document of each of its pieces.
    """
    split = inputs.valid[source]
    shuffle_block = evaluation_shuffle_block(source, split, context_tokens, row_tokens, max_rows)
    reader = ShuffleBlockReader(shuffle_block, {source: split}, inputs)
    for index in range(rank, min(shuffle_block.num_rows, max_rows), world_size):
        row = objective.label(reader.row(index), inputs.masking, ("evaluation", source, index))
        batch = micro_batches(collate([row], context_tokens), rows=1, pad_id=inputs.tokenizer.pad_id)[0]
        yield batch, shuffle_block.piece_document[shuffle_block.pieces(index)]
