import dataclasses
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from modernbert_train.evaluation import unigram
from modernbert_train.evaluation.unigram import count_tokens, counted_blocks, score_unigram
from modernbert_train.store.reading import BlockReader
from tests.helpers.stores import Documents, make_store, make_tokenizer


def test_score_by_hand() -> None:
    # p = (3 + 1, 1 + 1, 0 + 1) / (4 + 3) = 4/7, 2/7, 1/7; the most frequent id is 0.
    score = score_unigram(np.array([3, 1, 0]), np.array([0, 2]))
    assert score.loss == pytest.approx((np.log(7 / 4) + np.log(7)) / 2)
    assert score.accuracy == 0.5


def test_uniform_counts_give_the_log_of_the_vocabulary() -> None:
    assert score_unigram(np.full(50, 7), np.arange(50)).loss == pytest.approx(np.log(50))


def counts_of(folder: Path, documents: Documents) -> np.ndarray:
    """What `count_tokens` finds in a split with one document a block."""
    tokenizer = make_tokenizer(folder / "tokenizer")
    store = make_store(folder / "store", tokenizer, {"web": {"train": documents}}, block_documents=1)
    split = store.sources["web"]["train"]
    with closing(BlockReader([split])) as reader:
        return count_tokens("web", split, reader, tokenizer.num_ids, progress_bar=False)


def test_counts_every_token_of_a_small_split(tmp_path: Path) -> None:
    counts = counts_of(tmp_path, [[5, 5, 9], [9, 5], [255]])
    assert len(counts) == 256
    assert {int(i): int(counts[i]) for i in counts.nonzero()[0]} == {5: 3, 9: 2, 255: 1}


def test_counts_evenly_spaced_blocks_of_a_large_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unigram, "COUNTED_TOKENS", 30)
    counts = counts_of(tmp_path, [[5 + number] * 10 for number in range(9)])
    assert counts.nonzero()[0].tolist() == [5, 8, 11]


def test_counts_blocks_of_few_shards_of_a_remote_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unigram, "COUNTED_TOKENS", 60)
    monkeypatch.setattr(unigram, "COUNTED_SHARDS", 3)
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    documents = {"train": [[5 + number] * 10 for number in range(90)]}
    store = make_store(tmp_path, tokenizer, {"web": documents}, block_documents=1, shard_bytes=400)
    split = dataclasses.replace(store.sources["web"]["train"], remote="s3://bucket/store/web/train")
    blocks = counted_blocks(split)
    shards = [split.shard_of(block) for block in blocks]
    assert len(split.shards) >= 9
    assert len(blocks) == 6
    assert len(set(shards)) == 3
    assert min(np.diff(sorted(set(shards)))) >= 3  # from all over the split
