"""Reading the tokens of a block, from a folder or through the cache: the only module that reads tokens for training."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from modernbert_train.common.errors import is_of_the_machine, naming
from modernbert_train.common.text import one_line
from modernbert_train.common.types import Int64
from modernbert_train.store import external, mds
from modernbert_train.store.cache import Cache
from modernbert_train.store.download import check_scheme, is_url
from modernbert_train.store.integrity import damage_once
from modernbert_train.store.mds import count_unhashed, read_shards
from modernbert_train.store.names import inside
from modernbert_train.store.split import Split, comes_through_cache

log = logging.getLogger(__name__)

# Attempts to read a shard that the cache evicts each time before it is read.
_READS = 8
_AHEAD_THREADS = 2


class BlockReader:
    """Random access to the blocks of several splits.

    The shards of a remote split are read through the cache. `fetch_ahead` downloads them before they are read.

    A shard in a folder is compared with its size and hashes before it is first read, see integrity.py.

    Args:
        splits: all splits that this process reads.
        cache: holds the shards of remote splits (`comes_through_cache`); needed if there are any.
        num_ids: every id is below; None: not checked here.

    Raises:
        ValueError: The index of a split cannot be read.
    """

    def __init__(
        self, splits: Iterable[Split], cache: Cache | None = None, num_ids: int | None = None
    ) -> None:
        splits = list(splits)
        self._cache = cache
        self._num_ids = num_ids
        self._shards = {split.path: read_shards(split.path) for split in splits}
        self._folders = {split.path: self._folder(split) for split in splits}
        # Files of the shards that this process has read from.
        self._files: dict[tuple[Path, int], Path] = {}
        self._ahead: _FetchAhead | None = None
        self.reads_remote = any(comes_through_cache(split) for split in splits)

    def read(self, split: Split, block: int) -> np.ndarray:
        """Read the content tokens of a block.

        Args:
            split: one of those given to the constructor.
            block: its number in the split.

        Returns:
            The ids: uint16 or uint32 [tokens], not writable.

        Raises:
            ValueError: The shard cannot be downloaded or is damaged.
            OSError: The storage has failed.
        """
        shard = split.shard_of(block)
        for _ in range(_READS):
            file = self._ensure(split, shard)
            try:
                with naming(file):
                    ids = self._ids(split, shard, block, file)
            except FileNotFoundError:
                # Evicted from the cache since `_ensure`.
                continue
            except (OSError, ValueError) as error:
                if is_of_the_machine(error):
                    raise
                raise ValueError(self._damage(split, shard, one_line(error), block)) from error
            tokens = int(split.blocks(block, 1)[0, 1])
            if len(ids) != tokens:
                what = f"{len(ids)} tokens instead of {tokens}"
                raise ValueError(self._damage(split, shard, what, block))
            if self._num_ids is not None and tokens and (largest := int(ids.max())) >= self._num_ids:
                what = f"it has id {largest}, the tokenizer has {self._num_ids:,} ids"
                raise ValueError(self._damage(split, shard, what, block))
            return ids
        if not comes_through_cache(split):
            raise ValueError(self._damage(split, shard, "the file does not exist"))
        raise ValueError(
            f"data.cache.limit_bytes is too small: shard {shard} of {split.remote} was evicted {_READS} times before "
            "it could be read; raise the limit"
        )

    def _ids(self, split: Split, number: int, block: int, file: Path) -> np.ndarray:
        shard = self._shards[split.path][number]
        first_block, first_document = split.first_of_shards[number].tolist()
        if split.sample_layout is None:
            return mds.read_block(file, block - first_block, shard.ids_dtype)
        document = split.first_document(block)
        lengths = split.lengths(document, int(split.blocks(block, 1)[0, 0]))
        return external.read_block(file, shard, split.sample_layout, document - first_document, lengths)

    def fetch_ahead(self, splits: Mapping[str, Split], shards: Iterable[tuple[str, int]]) -> None:
        """Start to download shards in the background, in this order; local ones are ignored.

        Args:
            splits: source -> its split.
            shards: pairs (source, shard number).
        """
        wanted = [(splits[source], shard) for source, shard in shards if comes_through_cache(splits[source])]
        if not wanted:
            return
        if self._ahead is None or self._ahead.process != os.getpid():
            self._ahead = _FetchAhead(self._ensure)
        self._ahead.ask(wanted)

    def shard_bytes(self, split: Split) -> Int64:
        """Return the bytes of every shard of a split: int64 [num_shards]."""
        return np.array([shard.max_bytes for shard in self._shards[split.path]], dtype=np.int64)

    def num_unhashed(self, split: Split) -> int:
        """Return the number of shards of a split that cannot be compared with a hash."""
        return count_unhashed(self._shards[split.path])

    def close(self) -> None:
        """End the background threads once they have downloaded what was asked for. Closing twice does no harm."""
        if self._ahead is not None:
            self._ahead.stop()
            self._ahead = None

    def __getstate__(self) -> dict[str, object]:
        """Return the state without the threads, which stay in the process that started them."""
        return {**vars(self), "_ahead": None}

    def _folder(self, split: Split) -> Path:
        """Return the folder in which the shards of a split are, or will be once they are downloaded."""
        if not comes_through_cache(split):
            return Path(split.remote or split.path)
        if split.remote and is_url(split.remote):
            check_scheme(split.remote)
        assert self._cache is not None
        assert split.remote is not None
        return self._cache.path_of("shards", split.remote, split.digest)

    def _ensure(self, split: Split, number: int) -> Path:
        """Return the file of a shard, which is intact; the cache may evict it at any time."""
        shard = self._shards[split.path][number]
        file = self._files.get((split.path, number))
        first = file is None
        file = file or inside(self._folders[split.path], shard.raw.basename)
        if comes_through_cache(split):
            assert self._cache is not None
            assert split.remote is not None
            self._cache.ensure(split.remote, shard, file)
        elif first:
            try:
                with naming(file):
                    problem = damage_once(file, shard.raw.bytes, shard.raw.hashes)
            except FileNotFoundError:
                problem = "the file does not exist"
            except (OSError, ValueError) as error:
                if is_of_the_machine(error):
                    raise
                problem = one_line(error)
            if problem is not None:
                raise ValueError(self._damage(split, number, problem))
        self._files[split.path, number] = file
        return file

    @staticmethod
    def _damage(split: Split, shard: int, what: str, block: int | None = None) -> str:
        place = "" if block is None else f" at block {block}"
        if comes_through_cache(split):
            return (
                f"store: shard {shard} of {split.remote} is corrupt{place} ({what}): size and hash match "
                "index.json, so the store was written wrong; prepare it again"
            )
        return (
            f"store: shard {shard} of {split.path} cannot be read{place} ({what}); "
            f"run `python -m data_prep verify {split.path.parent.parent}`, then restore or prepare the store again"
        )


class _FetchAhead:
    """Background threads that download shards. Failures are only logged; the read that needs the shard raises."""

    def __init__(self, ensure: Callable[[Split, int], Path]) -> None:
        self.process = os.getpid()
        self._ensure = ensure
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
                self._ensure(*wanted)
            except ValueError as error:
                log.warning("fetching ahead: %s", error)
