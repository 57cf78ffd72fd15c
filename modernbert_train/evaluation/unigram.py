"""The baseline of a masked language model: guess from word frequencies alone, blind to the context."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from modernbert_train.store.manifest import Split
from modernbert_train.store.reading import BlockReader
from modernbert_train.store.split import comes_through_cache

COUNTED_TOKENS = 20_000_000  # enough for frequencies; a split of 2T tokens is not read through
COUNTED_SHARDS = 8  # of a store elsewhere: each is downloaded whole


@dataclass(frozen=True)
class UnigramScore:
    """How well token frequencies alone predict some masked tokens."""

    loss: float  # nats a token
    accuracy: float  # of always guessing the most frequent token


def score_unigram(counts: np.ndarray, labels: np.ndarray) -> UnigramScore:
    """Score frequencies `counts` [num_ids] on the ids `labels` [num_targets].

    The distribution is (count + 1) / (total + num_ids), so that a token never counted has a finite loss. With
    counts 3, 1, 0 and labels 0, 2: p = 4/7, 2/7, 1/7, loss = (ln 7/4 + ln 7) / 2, accuracy = 1/2.
    """
    assert len(labels) > 0
    log_probabilities = np.log(counts + 1.0) - np.log(counts.sum() + len(counts))
    return UnigramScore(
        loss=float(-log_probabilities[labels].mean()), accuracy=float((labels == counts.argmax()).mean())
    )


def count_tokens(
    name: str, split: Split, reader: BlockReader, num_ids: int, progress_bar: bool
) -> np.ndarray:
    """How often each id occurs in about `COUNTED_TOKENS` tokens of evenly spread blocks: int64 [num_ids]."""
    counts = np.zeros(num_ids, dtype=np.int64)
    blocks = tqdm(
        counted_blocks(split),
        desc=f"{name}: counting",
        leave=False,
        disable=None if progress_bar else True,
    )
    for block in blocks:
        counts += np.bincount(reader.read(split, block), minlength=num_ids)
    return counts


def counted_blocks(split: Split) -> Sequence[int]:
    """Numbers of blocks with about `COUNTED_TOKENS` tokens; of a store elsewhere those of few shards, spread evenly."""
    step = max(1, split.num_tokens // COUNTED_TOKENS)
    if not comes_through_cache(split) or step == 1:
        return range(0, split.num_blocks, step)
    first_blocks = split.first_of_shards[:, 0]
    places = np.linspace(0, len(first_blocks), COUNTED_SHARDS, endpoint=False).astype(np.int64)
    of_shard = max(1, COUNTED_TOKENS // COUNTED_SHARDS * split.num_blocks // split.num_tokens)
    return [
        block
        for shard in np.unique(places).tolist()
        for block in range(first_blocks[shard], first_blocks[shard] + min(of_shard, split.shards[shard, 0]))
    ]
