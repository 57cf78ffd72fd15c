"""A planned row becomes ids and masks: the rows of a window, of a stream, of held-out text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from modernbert_train.data.batch import MicroBatch, collate, micro_batches, padding_segments
from modernbert_train.data.inputs import Inputs
from modernbert_train.data.plan import SPECIALS_PER_PIECE, PhaseRows, Window, advance, evaluation_window
from modernbert_train.data.skip import find_skipped, without_pieces
from modernbert_train.objectives import Objective, PlainRow, Row
from modernbert_train.store.manifest import TokenizerInfo
from modernbert_train.store.reading import BlockReader
from modernbert_train.store.split import Split


class WindowReader:
    """The tokens of one window, read once; makes its rows."""

    def __init__(
        self, window: Window, splits: Mapping[str, Split], reader: BlockReader, tokenizer: TokenizerInfo
    ) -> None:
        self.window = window
        self._tokenizer = tokenizer
        blocks = [reader.read(splits[source], block) for source, block in window.blocks]
        sizes = np.array([len(block) for block in blocks], dtype=np.int64)
        self._tokens = np.concatenate(blocks) if blocks else np.empty(0, dtype=np.uint16)
        self._piece_first = (np.cumsum(sizes) - sizes)[window.piece_block] + window.piece_start

    def row(self, index: int, row_tokens: int, context_tokens: int) -> PlainRow:
        """Return a row with [CLS] before and [SEP] after the content of each piece."""
        pieces = self.window.pieces(index)
        counts = self.window.piece_tokens[pieces]
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


class StreamReader:
    """One canonical stream from a position (window, row) on. Holds the tokens of one window at a time."""

    def __init__(self, phase: PhaseRows, inputs: Inputs, stream: int, position: tuple[int, int]) -> None:
        self.plan = phase.plan
        self.stream = stream
        self.position = position
        self._objective = phase.objective
        self._inputs = inputs
        self._taken = np.zeros(len(self.plan.sources), dtype=np.int64)  # see `take_source_tokens`
        self._window: WindowReader | None = None
        # Of the window: which pieces are skipped, and the tokens of each source in each row.
        self._gone: npt.NDArray[np.bool_] | None = None
        self._source_tokens = np.empty((0, len(self.plan.sources)), dtype=np.int64)

    def next_rows(self, count: int) -> list[Row]:
        """The next `count` rows; moves the position behind them."""
        return [self._next_row() for _ in range(count)]

    def take_source_tokens(self) -> npt.NDArray[np.int64]:
        """Content tokens of each source of the plan in the rows that were read since the last call."""
        taken, self._taken = self._taken, np.zeros_like(self._taken)
        return taken

    def pass_over(self, count: int) -> None:
        """Move the position behind the next `count` rows without reading them."""
        position = advance(self.plan, self.stream, self.position, count)
        if position[0] != self.position[0]:
            self._window = None
        self.position = position

    def _next_row(self) -> Row:
        plan, (window, row) = self.plan, self.position
        if self._window is None:
            self._window = self._open(window)
        while row == self._window.window.num_rows:
            window, row = window + 1, 0
            self._window = self._open(window)
        self.position = window, row + 1
        key = (*plan.key, "mask", self.stream, window, row)
        self._taken += self._source_tokens[row]
        plain = self._window.row(row, plan.row_tokens, plan.context_tokens)
        labelled = self._objective.label(plain, self._inputs.masking, key)
        if self._gone is None:
            return labelled
        return without_pieces(
            labelled, self._gone[self._window.window.pieces(row)], self._inputs.tokenizer.pad_id
        )

    def _open(self, index: int) -> WindowReader:
        reader = self._inputs.reader
        if reader.reads_remote:
            for soon in (index, index + 1):
                reader.fetch_ahead(self.plan.sources, self.plan.shards(self.stream, soon))
        window = self.plan.window(self.stream, index)
        self._gone = find_skipped(window, self._inputs.skipped_documents)
        self._source_tokens = window.source_tokens(list(self.plan.sources), self._gone)
        return WindowReader(window, self.plan.sources, reader, self._inputs.tokenizer)


def evaluation_batches(
    source: str,
    inputs: Inputs,
    objective: Objective,
    *,
    context_tokens: int,
    row_tokens: int,
    max_rows: int,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[MicroBatch]:
    """Yield held-out rows of a source, one per batch, with targets that depend on (source, row) alone.

    Args:
        source: has a held-out split.
        inputs: of the recipe.
        objective: what to predict.
        context_tokens: longest piece of a document.
        row_tokens: slots of a row.
        max_rows: most rows over all ranks.
        rank: yields every `world_size`-th row, beginning with row `rank`.
        world_size: number of ranks.

    Yields:
        Micro-batches of one row.

    """
    split = inputs.valid[source]
    window = evaluation_window(source, split, context_tokens, row_tokens, max_rows)
    reader = WindowReader(window, {source: split}, inputs.reader, inputs.tokenizer)
    for index in range(rank, min(window.num_rows, max_rows), world_size):
        plain = reader.row(index, row_tokens, context_tokens)
        row = objective.label(plain, inputs.masking, ("evaluation", source, index))
        yield micro_batches(collate([row], context_tokens), rows=1, pad_id=inputs.tokenizer.pad_id)[0]
