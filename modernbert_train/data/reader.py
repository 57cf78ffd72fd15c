"""Reading: a planned row becomes ids. The only place that touches tokens, through mosaicml-streaming."""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from streaming.base.format import reader_from_json

from modernbert_train.data.batch import MicroBatch, Row, collate, micro_batches, padding_segments
from modernbert_train.data.cache import Cache
from modernbert_train.data.foreign import layout_of, read_block
from modernbert_train.data.manifest import TokenizerInfo
from modernbert_train.data.masking import Int32, Masking, mask_row, predict_next
from modernbert_train.data.plan import SPECIALS_PER_PIECE, Plan, Window, advance, evaluation_window
from modernbert_train.data.skip import SkippedDocuments, find_skipped, without_pieces
from modernbert_train.data.split import Int64, Split, comes_through_cache

log = logging.getLogger(__name__)

_READS = 8  # of a shard that makes room again and again before it is read
_AHEAD_THREADS = 2


class BlockReader:
    """Random access to the blocks of several splits.

    The shards of a split that lies elsewhere come through the cache. `fetch_ahead` has them on their way before they
    are read.

    Args:
        splits: all that a process reads.
        cache: keeps the shards of splits that lie elsewhere (`Split.remote`); needed if there are any.

    ValueError: the index of a split cannot be read.

    """

    def __init__(self, splits: Iterable[Split], cache: Cache | None = None) -> None:
        splits = list(splits)
        self._cache = cache
        self._shards = {split.path: _open_shards(split, self._folder(split)) for split in splits}
        self._ahead: _FetchAhead | None = None
        self.reads_remote = any(comes_through_cache(split) for split in splits)

    def read(self, split: Split, block: int) -> np.ndarray:
        """The content tokens of a block, uint16 or uint32 [tokens]. ValueError names a shard that cannot be read."""
        shard = split.shard_of(block)
        for _ in range(_READS):
            file = self._present(split, shard)
            try:
                ids = self._ids(split, shard, block, file)
            except FileNotFoundError:
                continue  # it has made room for another shard meanwhile
            except Exception as error:  # the MDS reader raises whatever the damage leads to
                raise ValueError(self._damage(split, block, f"{type(error).__name__}: {error}")) from error
            tokens = int(split.blocks(block, 1)[0, 1])
            if len(ids) != tokens:
                raise ValueError(self._damage(split, block, f"{len(ids)} tokens instead of {tokens}"))
            return ids
        if not comes_through_cache(split):
            raise ValueError(self._damage(split, block, "the file does not exist"))
        raise ValueError(
            f"data.cache.limit_bytes: shard {shard} of {split.remote} was fetched {_READS} times, and each time made "
            "room for another before it could be read; raise the limit"
        )

    def _ids(self, split: Split, shard: int, block: int, file: Path) -> np.ndarray:
        reader = self._shards[split.path][shard]
        if split.samples is None:
            return reader[block - int(split.first_of_shards[shard, 0])]["input_ids"]
        return _read_run(split, block, reader, file)

    def fetch_ahead(self, splits: Mapping[str, Split], shards: Iterable[tuple[str, int]]) -> None:
        """Have (source, shard) on their way, in this order, while other things are done. Local ones are passed over."""
        wanted = [(splits[source], shard) for source, shard in shards if comes_through_cache(splits[source])]
        if not wanted:
            return
        if self._ahead is None or self._ahead.process != os.getpid():
            self._ahead = _FetchAhead(self._present)
        self._ahead.ask(wanted)

    def shard_bytes(self, split: Split) -> Int64:
        """Bytes of every shard of a split: int64 [num_shards]."""
        return np.array([shard.get_max_size() for shard in self._shards[split.path]], dtype=np.int64)

    def close(self) -> None:
        """Fetch nothing ahead any more. Closing again does nothing."""
        if self._ahead is not None:
            self._ahead.stop()
            self._ahead = None

    def __getstate__(self) -> dict[str, object]:
        """Threads stay in the process that started them."""
        return {**vars(self), "_ahead": None}

    def _folder(self, split: Split) -> Path:
        """Where the shards of a split are, or come to be."""
        if not comes_through_cache(split):
            return Path(split.remote or split.path)
        assert self._cache is not None
        assert split.remote is not None
        return self._cache.path_of("shards", split.remote, split.digest)

    def _present(self, split: Split, shard: int) -> Path:
        """The file of a shard, which is there now; a cached one may have to make room at any time."""
        reader = self._shards[split.path][shard]
        file = Path(reader.dirname) / reader.raw_data.basename
        if comes_through_cache(split):
            assert self._cache is not None
            assert split.remote is not None
            self._cache.hold(split.remote, reader, file)
        return file

    @staticmethod
    def _damage(split: Split, block: int, what: str) -> str:
        shard = split.shard_of(block)
        if comes_through_cache(split):
            return (
                f"store: shard {shard} of {split.remote} cannot be read at block {block} ({what}), though it is as its "
                "index says; prepare the store again"
            )
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


def _open_shards(split: Split, folder: Path) -> list[Any]:
    """A reader of streaming.base.format for every shard of a split, whose files are, or will be, in `folder`."""
    try:
        index = json.loads((split.path / "index.json").read_text(encoding="utf-8"))
        shards = [reader_from_json(str(folder), None, info) for info in index["shards"]]
        for shard in shards:
            shard.validate(allow_unsafe_types=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"store: the index of a split, {split.path / 'index.json'}, cannot be read ({error}); "
            "run `python -m data_prep verify STORE`, then restore or prepare it again"
        ) from error
    return shards


class _FetchAhead:
    """Threads that see to it that shards are present. What fails is left to whoever reads it: that one raises."""

    def __init__(self, present: Callable[[Split, int], Path]) -> None:
        self.process = os.getpid()
        self._present = present
        self._wanted: queue.SimpleQueue[tuple[Split, int] | None] = queue.SimpleQueue()
        for number in range(_AHEAD_THREADS):
            threading.Thread(target=self._run, name=f"fetch ahead {number}", daemon=True).start()

    def ask(self, shards: Iterable[tuple[Split, int]]) -> None:
        for shard in shards:
            self._wanted.put(shard)

    def stop(self) -> None:
        for _ in range(_AHEAD_THREADS):
            self._wanted.put(None)

    def _run(self) -> None:
        while (wanted := self._wanted.get()) is not None:
            try:
                self._present(*wanted)
            except ValueError as error:
                log.warning("fetching ahead: %s", error)


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
            positions, labels, num_masked = predict_next(input_ids, segment_tokens, num_tokens)
        else:
            input_ids, positions, labels, num_masked = mask_row(input_ids, mask_rate, masking, key)
        return Row(
            input_ids=input_ids,
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
