"""Reading: the tokens of a block. The only place that touches them, through mosaicml-streaming."""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from streaming.base.format import reader_from_json

from modernbert_train.store.cache import Cache
from modernbert_train.store.external import layout_of, read_block
from modernbert_train.store.split import Int64, Split, comes_through_cache

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
        """Fetch ahead what was asked for, and nothing after it. Closing again does nothing."""
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
    first_document = split.first_document(block)
    first_sample = first_document - int(split.first_of_shards[split.shard_of(block), 1])
    lengths = split.lengths(first_document, int(split.blocks(block, 1)[0, 0]))
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
