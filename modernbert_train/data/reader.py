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
from streaming.base.format import reader_from_json

from modernbert_train.data.batch import MicroBatch, Row, collate, micro_batches, padding_segments
from modernbert_train.data.cache import Cache
from modernbert_train.data.manifest import TokenizerInfo
from modernbert_train.data.masking import Int32, Masking, mask_row
from modernbert_train.data.plan import SPECIALS_PER_PIECE, Plan, Window, evaluation_window
from modernbert_train.data.split import Int64, Split

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
        self.reads_remote = any(split.remote is not None for split in splits)

    def read(self, split: Split, block: int) -> np.ndarray:
        """The content tokens of a block, uint16 or uint32 [tokens]. ValueError names a shard that cannot be read."""
        shard = split.shard_of(block)
        in_shard = block - int(split.first_of_shards[shard, 0])
        for _ in range(_READS):
            self._present(split, shard)
            try:
                ids = self._shards[split.path][shard][in_shard]["input_ids"]
            except FileNotFoundError:
                continue  # it has made room for another shard meanwhile
            except Exception as error:  # the MDS reader raises whatever the damage leads to
                raise ValueError(self._damage(split, block, f"{type(error).__name__}: {error}")) from error
            tokens = int(split.blocks(block, 1)[0, 1])
            if len(ids) != tokens:
                raise ValueError(self._damage(split, block, f"{len(ids)} tokens instead of {tokens}"))
            return ids
        if split.remote is None:
            raise ValueError(self._damage(split, block, "the file does not exist"))
        raise ValueError(
            f"data.cache.limit_bytes: shard {shard} of {split.remote} was fetched {_READS} times, and each time made "
            "room for another before it could be read; raise the limit"
        )

    def fetch_ahead(self, splits: Mapping[str, Split], shards: Iterable[tuple[str, int]]) -> None:
        """Have (source, shard) on their way, in this order, while other things are done. Local ones are passed over."""
        wanted = [(splits[source], shard) for source, shard in shards if splits[source].remote is not None]
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
        if split.remote is None:
            return split.path
        assert self._cache is not None
        return self._cache.path_of("shards", split.remote, split.digest)

    def _present(self, split: Split, shard: int) -> Path:
        """The file of a shard, which is there now; a cached one may have to make room at any time."""
        reader = self._shards[split.path][shard]
        file = Path(reader.dirname) / reader.raw_data.basename
        if split.remote is not None:
            assert self._cache is not None
            self._cache.hold(split.remote, reader, file)
        return file

    @staticmethod
    def _damage(split: Split, block: int, what: str) -> str:
        shard = split.shard_of(block)
        if split.remote is not None:
            return (
                f"store: shard {shard} of {split.remote} cannot be read at block {block} ({what}), though it is as its "
                "index says; prepare the store again"
            )
        return (
            f"store: shard {shard} of {split.path} cannot be read at block {block} ({what}); "
            f"run `python -m data_prep verify {split.path.parent.parent}`, then restore or prepare the store again"
        )


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
    ) -> None:
        self.plan = plan
        self.stream = stream
        self.position = position
        self._reader = reader
        self._tokenizer = tokenizer
        self._masking = masking
        self._mask_rate = mask_rate
        self._window: WindowReader | None = None

    def next_rows(self, count: int) -> list[Row]:
        """The next `count` rows; moves the position behind them."""
        return [self._next_row() for _ in range(count)]

    def _next_row(self) -> Row:
        plan, (window, row) = self.plan, self.position
        if self._window is None:
            self._window = self._open(window)
        while row == self._window.window.num_rows:
            window, row = window + 1, 0
            self._window = self._open(window)
        self.position = window, row + 1
        key = (*plan.key, "mask", self.stream, window, row)
        return self._window.masked_row(
            row, plan.row_tokens, plan.context_tokens, self._mask_rate, self._masking, key
        )

    def _open(self, window: int) -> WindowReader:
        if self._reader.reads_remote:
            for index in (window, window + 1):
                self._reader.fetch_ahead(self.plan.sources, self.plan.shards(self.stream, index))
        return WindowReader(
            self.plan.window(self.stream, window), self.plan.sources, self._reader, self._tokenizer
        )


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
