from collections import Counter
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modernbert_train.config import EvaluationConfig
from modernbert_train.config.schema import ObjectiveName
from modernbert_train.data.batch import padding_segments
from modernbert_train.objectives import (
    IGNORE_INDEX,
    OBJECTIVES,
    MaskedLM,
    Masking,
    NextToken,
    PlainRow,
    build_objective,
    phase_title,
)
from tests.helpers.little_recipe import a_phase
from tests.helpers.stores import make_tokenizer
from tests.reference.masking import check_masked_row, next_tokens

SPECIALS = 5  # ids 0 to 4, see make_tokenizer


def make_masking(mask_fraction=0.8, random_fraction=0.1) -> Masking:
    maskable = np.arange(256) >= SPECIALS
    maskable[250:] = False  # ids that the tokenizer does not use
    ordinary = np.flatnonzero(maskable).astype(np.int32)
    return Masking(4, mask_fraction, random_fraction, maskable, ordinary)


def mask_row(ids, rate, masking, key) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Ids, positions, labels and number of targets of a row of one segment under masked LM."""
    plain = PlainRow(ids, np.array([len(ids)], dtype=np.int32), len(ids))
    row = MaskedLM(rate).label(plain, masking, key)
    assert row["segment_tokens"] is plain.segment_tokens
    assert row["num_tokens"] == len(ids)
    return row["input_ids"], row["target_positions"], row["labels"], row["num_targets"]


def predict_next(ids, segment_tokens, num_tokens) -> tuple[np.ndarray, np.ndarray, int]:
    """Positions, labels and number of targets of a row under next-token prediction; the ids stay as they are."""
    plain = PlainRow(ids, segment_tokens, num_tokens)
    row = NextToken().label(plain, make_masking(), ())
    assert row["input_ids"].tolist() == ids.tolist()
    assert (row["segment_tokens"] is segment_tokens, row["num_tokens"]) == (True, num_tokens)
    return row["target_positions"], row["labels"], row["num_targets"]


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
        assert positions.shape == labels.shape == (MaskedLM(0.3).max_targets(100),) == (30,)
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


def test_every_name_of_a_recipe_is_an_objective():
    assert set(OBJECTIVES) == set(get_args(ObjectiveName))
    assert all(OBJECTIVES[name].name == name for name in OBJECTIVES)


def test_a_change_of_objective_changes_the_fingerprint():
    fingerprints = {build_objective(name, a_phase(mask_rate=0.3)).fingerprint for name in OBJECTIVES}
    assert len(fingerprints) == len(OBJECTIVES)


def test_an_objective_has_the_settings_of_the_phase_or_of_the_evaluation():
    evaluation = EvaluationConfig(mask_rate=0.15)
    assert build_objective("mlm", evaluation) == MaskedLM(0.15)
    assert build_objective("clm", evaluation) == NextToken()
    phase = a_phase(objective="mlm", mask_rate=0.4)
    assert build_objective(phase.objective, phase) == MaskedLM(0.4)


def test_what_an_objective_says_of_itself():
    assert (MaskedLM(0.3).causal, NextToken().causal) == (False, True)
    assert [MaskedLM(rate).describe() for rate in (0.07, 0.125, 0.3)] == [
        "7% masked",
        "12.5% masked",
        "30% masked",
    ]
    assert NextToken().describe() == "next token"
    assert MaskedLM(0.3).record() == {"objective": "mlm", "mask_rate": 0.3}
    assert NextToken().record() == {"objective": "clm", "mask_rate": None}
    assert (phase_title("warm", "clm"), phase_title("main", "mlm")) == ("warm, next token", "main")


def test_the_share_of_targets():
    """Two documents of 6 and 2 tokens: 5 + 1 of 8 tokens have a next one."""
    assert NextToken().target_share([6, 2]) == 0.75
    assert MaskedLM(0.3).target_share([6, 2]) == 0.3
    assert (NextToken().max_targets(64), MaskedLM(0.3).max_targets(64)) == (64, 20)
