"""Reading: a planned row becomes ids. The only place that touches tokens, through mosaicml-streaming."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
from streaming import Stream, StreamingDataset
from streaming.base.shared import memory

from modernbert_train.data.batch import MicroBatch, Row, collate, micro_batches, padding_segments
from modernbert_train.data.foreign import layout_of, read_block
from modernbert_train.data.manifest import TokenizerInfo
from modernbert_train.data.masking import Int32, Masking, mask_row
from modernbert_train.data.plan import SPECIALS_PER_PIECE, Plan, Window, advance, evaluation_window
from modernbert_train.data.skip import SkippedDocuments, find_skipped, without_pieces
from modernbert_train.data.split import Split

READ_ATTEMPTS = 8  # at a shard that other processes may evict from the cache


class BlockReader:
    """Random access to the blocks of several splits. Streaming keeps the shards.

    Make one for all that a process reads, and close it: each holds a dozen file handles of shared memory, and as many
    again for each other one that was open on the machine.
    """

    def __init__(self, splits: Iterable[Split]) -> None:
        by_path = {split.path: split for split in splits}
        streams = [Stream(local=str(path), remote=split.remote) for path, split in by_path.items()]
        with _releases_of_shared_memory() as self._releases:
            atexit.register(self.close)
            try:
                self._dataset = StreamingDataset(streams=streams, batch_size=1, predownload=1)
            except (RuntimeError, ValueError, KeyError) as error:  # an index.json that is missing or broken
                stores = ", ".join(sorted({str(path.parent.parent) for path in by_path}))
                raise ValueError(
                    f"store: the index of a split in {stores} cannot be read ({error}); "
                    "run `python -m data_prep verify STORE`, then restore or prepare it again"
                ) from error
        first_blocks = self._dataset.sample_offset_per_stream.tolist()
        self._first_block = dict(zip(by_path, first_blocks, strict=True))
        self._first_shard = dict(zip(by_path, self._dataset.shard_offset_per_stream.tolist(), strict=True))

    def read(self, split: Split, block: int) -> np.ndarray:
        """The content tokens of a block, uint16 or uint32 [tokens]. ValueError names a shard that cannot be read."""
        tokens = int(split.blocks(block, 1)[0, 1])
        try:
            if split.samples is None:
                ids = self._dataset[self._first_block[split.path] + block]["input_ids"]
            else:
                ids = self._read_foreign(split, block)
        except Exception as error:  # Streaming and the MDS reader raise whatever the damage leads to
            raise ValueError(self._damage(split, block, f"{type(error).__name__}: {error}")) from error
        if len(ids) != tokens:
            raise ValueError(self._damage(split, block, f"{len(ids)} tokens instead of {tokens}"))
        return ids

    def _read_foreign(self, split: Split, block: int) -> np.ndarray:
        """A block of shards that others wrote: read where they lie on this machine, else from Streaming's cache."""
        number = self._first_shard[split.path] + split.shard_of(block)
        shard = self._dataset.shards[number]
        in_place = Path(split.remote or split.path, shard.raw_data.basename)
        if in_place.is_file():
            return _read_run(split, block, shard, in_place)
        for _ in range(READ_ATTEMPTS):
            self._dataset.prepare_shard(number)
            try:
                return _read_run(split, block, shard, Path(shard.dirname, shard.raw_data.basename))
            except FileNotFoundError:  # evicted by another process in between
                continue
        raise ValueError(
            f"removed from the cache {READ_ATTEMPTS} times before it was read; raise the cache's limit"
        )

    def close(self) -> None:
        """Give back the shared memory. Nothing can be read afterwards; closing again does nothing."""
        atexit.unregister(self.close)
        while self._releases:
            self._releases.pop()()

    def __getstate__(self) -> dict[str, object]:
        """A copy in a spawned worker has nothing to give back."""
        return {**vars(self), "_releases": []}

    @staticmethod
    def _damage(split: Split, block: int, what: str) -> str:
        shard = split.shard_of(block)
        return (
            f"store: shard {shard} of {split.path} cannot be read at block {block} ({what}); "
            f"run `python -m data_prep verify {split.path.parent.parent}`, then restore or prepare the store again"
        )


def _read_run(split: Split, block: int, shard: Any, file: Path) -> np.ndarray:
    """A block of a split that others wrote; `shard` is Streaming's reader of the shard, `file` where it lies."""
    assert split.samples is not None
    first_block, first_document = split.first_of_shards[split.shard_of(block)].tolist()
    first_sample = int(split.blocks(first_block, block - first_block)[:, 0].sum())
    lengths = split.lengths(first_document + first_sample, int(split.blocks(block, 1)[0, 0]))
    layout = layout_of(shard.column_names, shard.column_encodings, shard.column_sizes, split.samples)
    return read_block(file, layout, split.samples, first_sample, lengths)


@contextmanager
def _releases_of_shared_memory() -> Iterator[list[Callable[[], None]]]:
    """Collects how to release the shared memory that Streaming makes or opens here.

    Streaming itself would wait for the end of the process (its only use of `atexit`), so that one with many readers
    would run out of file handles.
    """
    releases: list[Callable[[], None]] = []
    original, memory.atexit = memory.atexit, SimpleNamespace(register=releases.append)
    try:
        yield releases
    finally:
        memory.atexit = original


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
        mask_rate: float,
        masking: Masking,
        key: tuple[object, ...],
    ) -> Row:
        """A row as the model gets it."""
        input_ids, segment_tokens, num_tokens = self.row(index, row_tokens, context_tokens)
        masked_ids, positions, labels, num_masked = mask_row(input_ids, mask_rate, masking, key)
        return Row(
            input_ids=masked_ids,
            segment_tokens=segment_tokens,
            masked_positions=positions,
            labels=labels,
            num_masked=num_masked,
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
        mask_rate: float,
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
    mask_rate: float,
    max_rows: int,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[MicroBatch]:
    """Held-out rows, one a batch, with masks that depend on (source, row) alone; every `world_size`-th for a rank."""
    window = evaluation_window(name, split, context_tokens, row_tokens, max_rows)
    rows = WindowReader(window, {name: split}, reader, tokenizer)
    for index in range(rank, min(window.num_rows, max_rows), world_size):
        key = ("evaluation", name, index)
        row = rows.masked_row(index, row_tokens, context_tokens, mask_rate, masking, key)
        yield micro_batches(collate([row], context_tokens), rows=1, pad_id=tokenizer.pad_id)[0]
