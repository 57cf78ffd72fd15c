"""Splits without files: sidecars in memory, for tests that plan and read no token."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modernbert_train.store.split import Split


class _Rows:
    """Stands for an ArrayFile."""

    def __init__(self, content: np.ndarray) -> None:
        self._content = content

    def read(self, first: int = 0, count: int | None = None) -> np.ndarray:
        return self._content[first : None if count is None else first + count]


def make_split(lengths: Sequence[int], *, block_documents: int = 128, num_shards: int = 1) -> Split:
    """Return a split of documents of these lengths, with blocks of `block_documents` in shards of similar size."""
    sizes = np.asarray(lengths, np.uint32)
    firsts = np.arange(0, len(sizes), block_documents)
    blocks = np.column_stack(
        [np.diff([*firsts, len(sizes)]), np.add.reduceat(sizes.astype(np.int64), firsts)]
    ).astype(np.int64)
    shards = [
        [len(part), *part.sum(axis=0).tolist()]
        for part in np.array_split(blocks, min(num_shards, len(blocks)))
    ]
    split = Split(Path("in memory"), len(sizes), int(sizes.sum()), len(blocks))
    vars(split).update(_lengths=_Rows(sizes), _blocks=_Rows(blocks), shards=np.array(shards, np.int64))
    return split
