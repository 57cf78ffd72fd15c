"""The unigram baseline: predict from token frequencies alone, without context."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from modernbert_train.store.manifest import Split
from modernbert_train.store.reading import BlockReader
from modernbert_train.store.split import comes_through_cache

# Enough to estimate frequencies, so that a split of 2T tokens is not read completely.
COUNTED_TOKENS = 20_000_000
# Number of shards to read from a remote store, where each must be downloaded whole.
COUNTED_SHARDS = 8


@dataclass(frozen=True)
class UnigramScore:
    """Scores of token frequencies on some targets."""

    # Nats per target.
    loss: float
    # Accuracy of always predicting the most frequent token.
    accuracy: float


def score_unigram(counts: np.ndarray, labels: np.ndarray) -> UnigramScore:
    """Score token frequencies on targets.

    The distribution is (count + 1) / (total + num_ids), so that a token that was never counted has a finite loss.
    With counts 3, 1, 0 and labels 0, 2: p = 4/7, 2/7, 1/7, loss = (ln 7/4 + ln 7) / 2, accuracy = 1/2.

    Args:
        counts: Frequency of each id, [num_ids].
        labels: Ids of the targets, [num_targets].

    Returns:
        Loss and accuracy.
    """
    assert len(labels) > 0
    log_probabilities = np.log(counts + 1.0) - np.log(counts.sum() + len(counts))
    return UnigramScore(
        loss=float(-log_probabilities[labels].mean()), accuracy=float((labels == counts.argmax()).mean())
    )


def count_tokens(
    name: str, split: Split, reader: BlockReader, num_ids: int, progress_bar: bool
) -> np.ndarray:
    """Count each id, int64 [num_ids], in about `COUNTED_TOKENS` tokens of evenly spaced blocks."""
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
    """Return evenly spaced blocks with about `COUNTED_TOKENS` tokens; of a remote store, those of a few shards."""
    step = max(1, split.num_tokens // COUNTED_TOKENS)
    if not comes_through_cache(split) or step == 1:
        return range(0, split.num_blocks, step)
    first_blocks = split.first_of_shards[:, 0]
    positions = np.linspace(0, len(first_blocks), COUNTED_SHARDS, endpoint=False).astype(np.int64)
    blocks_per_shard = max(1, COUNTED_TOKENS // COUNTED_SHARDS * split.num_blocks // split.num_tokens)
    return [
        block
        for shard in np.unique(positions).tolist()
        for block in range(
            first_blocks[shard], first_blocks[shard] + min(blocks_per_shard, split.shards[shard, 0])
        )
    ]
