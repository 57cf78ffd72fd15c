from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modernbert_train.data.batch import padding_segments
from modernbert_train.data.objectives import IGNORE_INDEX, Masking, mask_row, max_targets, predict_next
from tests.helpers.stores import make_tokenizer
from tests.reference.masking import check_masked_row, next_tokens

SPECIALS = 5  # ids 0 to 4, see make_tokenizer


def make_masking(mask_fraction=0.8, random_fraction=0.1) -> Masking:
    maskable = np.arange(256) >= SPECIALS
    maskable[250:] = False  # ids that the tokenizer does not use
    ordinary = np.flatnonzero(maskable).astype(np.int32)
    return Masking(4, mask_fraction, random_fraction, maskable, ordinary)


@given(st.lists(st.integers(0, 249), min_size=1, max_size=200), st.floats(0.01, 0.99), st.integers(0, 10**6))
def test_specials_and_padding_are_never_chosen_nor_drawn(ids, rate, key):
    original = np.array(ids, dtype=np.int32)
    masking = make_masking(0.4, 0.4)
    check_masked_row(original, *mask_row(original, rate, masking, (key,)), rate, masking)


def test_the_mask_depends_on_the_key_alone():
    row = np.arange(5, 205, dtype=np.int32)
    first, second = (mask_row(row, 0.3, make_masking(), (17, 0, "mask", 1)) for _ in range(2))
    other = mask_row(row, 0.3, make_masking(), (17, 0, "mask", 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not np.array_equal(first[1], other[1])


def test_shapes_are_constant():
    for size in (0, 50, 100):
        row = np.array([10] * size + [3] * (100 - size), dtype=np.int32)
        masked, positions, labels, num_targets = mask_row(row, 0.3, make_masking(), (size,))
        assert masked.shape == (100,)
        assert positions.shape == labels.shape == (max_targets(100, 0.3),) == (30,)
        assert num_targets == round(0.3 * size)


@pytest.mark.parametrize(("mask", "random"), [(0.8, 0.1), (1.0, 0.0), (0.0, 1.0), (0.5, 0.2)])
def test_fractions(mask, random):
    masking = make_masking(mask, random)
    row = np.random.default_rng(0).integers(5, 250, 100_000).astype(np.int32)
    masked, positions, labels, num_targets = mask_row(row, 0.3, masking, (1,))
    seen = masked[positions[:num_targets]]
    became_mask = (seen == masking.mask_id).mean()
    unchanged = (seen == labels[:num_targets]).mean()
    keep = 1 - mask - random
    assert became_mask == pytest.approx(mask, abs=0.01)
    assert unchanged == pytest.approx(keep + random / 245, abs=0.01)


def test_every_position_and_every_token_is_equally_likely():
    masking = make_masking(0.0, 1.0)
    row = np.full(20, 100, dtype=np.int32)
    positions: Counter = Counter()
    drawn: Counter = Counter()
    for key in range(5_000):
        masked, chosen, _, num_targets = mask_row(row, 0.3, masking, (key,))
        positions.update(chosen[:num_targets].tolist())
        drawn.update(masked[chosen[:num_targets]].tolist())
    counts = np.array([positions[at] for at in range(20)])
    assert abs(counts - 1_500).max() < 5 * np.sqrt(1_500)
    tokens = np.array([drawn[token] for token in masking.ordinary_ids])
    assert abs(tokens - 30_000 / 245).max() < 6 * np.sqrt(30_000 / 245)
    assert set(drawn) <= set(masking.ordinary_ids.tolist())


def test_masking_of_a_tokenizer(tmp_path):
    tokenizer = make_tokenizer(tmp_path, num_words=90)
    masking = Masking.of(tokenizer, 0.8, 0.1)
    assert len(masking.maskable) == 128
    assert masking.ordinary_ids.tolist() == list(range(5, 95))
    assert masking.mask_id == tokenizer.mask_id == 4


def test_next_tokens_by_hand():
    """Two documents and three slots of padding: neither the first [SEP] nor the last, nor padding, predicts."""
    row = np.array([1, 11, 12, 2, 1, 13, 2, 3, 3, 3], dtype=np.int32)
    positions, labels, num = predict_next(row, np.array([4, 3, 2, 1], dtype=np.int32), 7)
    assert num == 5
    assert positions.tolist() == [0, 1, 2, 4, 5, 0, 0, 0, 0, 0]
    assert labels.tolist() == [11, 12, 2, 13, 2, *[IGNORE_INDEX] * 5]
    assert positions.dtype == labels.dtype == np.int32


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(st.integers(1, 12), max_size=12), st.integers(0, 40))
def test_next_tokens_of_any_row(documents, padding):
    segments = np.concatenate([np.array(documents, dtype=np.int32), padding_segments(padding, 12)])
    row = np.random.default_rng(len(segments)).integers(0, 250, segments.sum()).astype(np.int32)
    expected = next_tokens(row.tolist(), segments.tolist(), sum(documents))
    positions, labels, num = predict_next(row, segments, sum(documents))
    assert list(zip(positions[:num].tolist(), labels[:num].tolist(), strict=True)) == expected
    assert len(positions) == len(labels) == len(row)
    assert set(labels[num:].tolist()) <= {IGNORE_INDEX}
