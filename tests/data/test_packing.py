import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modernbert_train.data.packing import cut_into_pieces, pack
from tests.reference.packing import pack_slowly


def test_pack_by_hand():
    # 5 opens row 0 (3 left); 3 fits there exactly; 3 opens row 1 (5 left); 2 -> 3 left; 1 -> 2 left.
    assert pack([5, 3, 3, 2, 1], row_tokens=8).tolist() == [0, 0, 1, 1, 1]


def test_pack_prefers_the_fullest_row():
    # Rows after 7, 6, 5: free 3, 4, 5. The 3 belongs into the first.
    assert pack([3, 5, 6, 7], row_tokens=10).tolist() == [0, 2, 1, 0]


def test_pack_of_nothing():
    assert pack([], row_tokens=8).tolist() == []


@pytest.mark.parametrize("lengths", [[0, 3], [9], [-1]])
def test_pack_refuses_what_does_not_fit(lengths):
    with pytest.raises(ValueError, match=r"1 to 8 tokens \(row_tokens\)"):
        pack(lengths, row_tokens=8)


@given(st.lists(st.integers(1, 40), max_size=120), st.integers(40, 100))
def test_pack_agrees_with_the_slow_twin(lengths, row_tokens):
    rows = pack(lengths, row_tokens)
    filled = np.bincount(rows, weights=lengths) if lengths else np.array([])
    assert sorted((row_tokens - filled).tolist()) == pack_slowly(lengths, row_tokens)


@pytest.mark.parametrize("context_tokens", [1_024, 8_192])
def test_fill_of_a_window_of_text(context_tokens):
    random = np.random.default_rng(0)
    documents = np.clip(random.lognormal(5.8, 1.0, 40_000).astype(int), 1, 10**6)
    lengths = cut_into_pieces(documents, context_tokens - 2)[2] + 2
    rows = pack(lengths, row_tokens=8_192)
    assert lengths.sum() / ((rows.max() + 1) * 8_192) >= 0.999


def test_pieces_by_hand():
    document, start, length = cut_into_pieces(np.array([3, 10, 5]), piece_tokens=5)
    assert document.tolist() == [0, 1, 1, 2]
    assert start.tolist() == [0, 0, 5, 0]
    assert length.tolist() == [3, 5, 5, 5]


@given(st.lists(st.integers(1, 50), max_size=50), st.integers(1, 20))
def test_pieces_cover_every_document_once(lengths, piece_tokens):
    covered = [[0] * length for length in lengths]
    for document, start, length in zip(
        *cut_into_pieces(np.array(lengths, dtype=int), piece_tokens), strict=True
    ):
        assert 1 <= length <= piece_tokens
        for token in range(start, start + length):
            covered[document][token] += 1
    assert all(count == 1 for document in covered for count in document)
