import math

import pytest

from modernbert_train.retrieval.lexical import Bm25, TfIdf, mine_negatives

DOCUMENTS = ["The red cat sat. Cat!", "a dog, and a RED dog_house", "green fish in a long dark blue river"]


def test_bm25_is_lucene_s() -> None:
    """By hand: words of each document without stop words are 4 (red cat sat cat), 3 and 6, 13 / 3 on average."""

    def idf(documents: int) -> float:
        return math.log(1 + (3 - documents + 0.5) / (documents + 0.5))

    def frequency(count: int, words: int) -> float:
        return count / (count + 1.5 * (1 - 0.75 + 0.75 * words / (13 / 3)))

    (found, scores), (rare, _) = Bm25(DOCUMENTS).search(["a red CAT", "blue dog_house"], 3)
    assert found == [0, 1, 2]
    expected = [idf(2) * frequency(1, 4) + idf(1) * frequency(2, 4), idf(2) * frequency(1, 3), 0]
    assert scores == pytest.approx(expected, rel=1e-6)
    assert set(rare[:2]) == {1, 2}


def test_tf_idf_is_a_cosine() -> None:
    (found, scores), _ = TfIdf(DOCUMENTS).search(["Red cat, sat: cat", "fish"], 2)
    assert found[0] == 0
    assert scores[0] == pytest.approx(1)
    assert 0 < scores[1] < 1


def test_negatives_are_of_the_ranks_and_do_not_answer_the_query() -> None:
    pairs = [("apple number", f"apple {'tree ' * i}") for i in range(12)] + [("stone", "stone")]
    pairs = [(f"{query} {i % 4}", document) for i, (query, document) in enumerate(pairs)]
    negatives = mine_negatives(pairs, 2, (3, 6), seed=0)
    assert negatives == mine_negatives(pairs, 2, (3, 6), seed=0)
    assert negatives != mine_negatives(pairs, 2, (3, 6), seed=1)
    ranks = {document: rank for rank, (_, document) in enumerate(pairs)}
    for (query, _), chosen in zip(pairs[:12], negatives, strict=False):
        answers = {document for other, document in pairs if other == query}
        best = [document for _, document in pairs if document not in answers]
        best.sort(key=lambda document: (document == "stone", len(document)))
        assert len(set(chosen)) == 2
        assert set(chosen) <= set(best[2:6]), ranks
    with pytest.raises(
        ValueError, match=r"retrieval.hard_negatives is 11, but the training pairs have 13 documents"
    ):
        mine_negatives(pairs, 11, (3, 6), seed=0)
