"""A planned row becomes ids and masks: the rows of a window, of a stream, of held-out text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from modernbert_train.data.batch import MicroBatch, Row, collate, micro_batches, padding_segments
from modernbert_train.data.objectives import Int32, Masking, mask_row, predict_next
from modernbert_train.data.plan import SPECIALS_PER_PIECE, Plan, Window, advance, evaluation_window
from modernbert_train.data.skip import SkippedDocuments, find_skipped, without_pieces
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

    def row(self, index: int, row_tokens: int, context_tokens: int) -> tuple[Int32, Int32, int]:
        """Ids [row_tokens] and tokens of each segment of a row, specials added; and how many slots are no padding."""
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
        return input_ids, np.concatenate([segments.astype(np.int32), padding]), used

    def masked_row(
        self,
        index: int,
        row_tokens: int,
        context_tokens: int,
        mask_rate: float | None,
        masking: Masking,
        key: tuple[object, ...],
    ) -> Row:
        """A row as the model gets it. `mask_rate` None: nothing is masked, every token predicts the next one."""
        input_ids, segment_tokens, num_tokens = self.row(index, row_tokens, context_tokens)
        if mask_rate is None:
            positions, labels, num_targets = predict_next(input_ids, segment_tokens, num_tokens)
        else:
            input_ids, positions, labels, num_targets = mask_row(input_ids, mask_rate, masking, key)
        return Row(
            input_ids=input_ids,
            segment_tokens=segment_tokens,
            target_positions=positions,
            labels=labels,
            num_targets=num_targets,
            num_tokens=num_tokens,
        )


class StreamReader:
    """One canonical stream from a position (window, row) on. Holds the tokens of one window at a time."""

    def __init__(
        self,
        plan: Plan,
        stream: int,
        position: tuple[int, int],
        reader: BlockReader,
        tokenizer: TokenizerInfo,
        masking: Masking,
        mask_rate: float | None,
        skipped: SkippedDocuments | None = None,
    ) -> None:
        self.plan = plan
        self.stream = stream
        self.position = position
        self._reader = reader
        self._tokenizer = tokenizer
        self._masking = masking
        self._mask_rate = mask_rate
        self._skipped = skipped or {}
        self._taken = np.zeros(len(plan.sources), dtype=np.int64)  # see `take_source_tokens`
        self._window: WindowReader | None = None
        # Of the window: which pieces are skipped, and the tokens of each source in each row.
        self._gone: npt.NDArray[np.bool_] | None = None
        self._source_tokens = np.empty((0, len(plan.sources)), dtype=np.int64)

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
        masked = self._window.masked_row(
            row, plan.row_tokens, plan.context_tokens, self._mask_rate, self._masking, key
        )
        if self._gone is None:
            return masked
        return without_pieces(masked, self._gone[self._window.window.pieces(row)], self._tokenizer.pad_id)

    def _open(self, index: int) -> WindowReader:
        if self._reader.reads_remote:
            for soon in (index, index + 1):
                self._reader.fetch_ahead(self.plan.sources, self.plan.shards(self.stream, soon))
        window = self.plan.window(self.stream, index)
        self._gone = find_skipped(window, self._skipped)
        self._source_tokens = window.source_tokens(list(self.plan.sources), self._gone)
        return WindowReader(window, self.plan.sources, self._reader, self._tokenizer)


def evaluation_batches(
    name: str,
    split: Split,
    reader: BlockReader,
    tokenizer: TokenizerInfo,
    masking: Masking,
    *,
    context_tokens: int,
    row_tokens: int,
    mask_rate: float | None,
    max_rows: int,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[MicroBatch]:
    """Held-out rows, one a batch, with masks that depend on (source, row) alone; every `world_size`-th for a rank.

    `mask_rate` None: nothing is masked, every token predicts the next one.
    """
    window = evaluation_window(name, split, context_tokens, row_tokens, max_rows)
    rows = WindowReader(window, {name: split}, reader, tokenizer)
    for index in range(rank, min(window.num_rows, max_rows), world_size):
        key = ("evaluation", name, index)
        row = rows.masked_row(index, row_tokens, context_tokens, mask_rate, masking, key)
        yield micro_batches(collate([row], context_tokens), rows=1, pad_id=tokenizer.pad_id)[0]
