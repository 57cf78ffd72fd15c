import pytest

from modernbert_train.retrieval.collection import Collection, from_beir, from_pairs

CORPUS = [{"_id": 1, "title": "T", "text": "one"}, {"_id": "2", "text": "two"}]
QUERIES = [{"_id": "a", "text": "first"}, {"_id": "b", "text": "none"}]


def test_equal_texts_of_pairs_are_one() -> None:
    found = from_pairs("mine", [("a", "x"), ("b", "x"), ("a", "y"), ("a", "x", "negative")])
    assert found.documents == {"d0": ("", "x"), "d1": ("", "y")}
    assert found.queries == {"q0": "a", "q1": "b"}
    assert found.relevant == {"q0": {"d0": 1, "d1": 1}, "q1": {"d0": 1}}


def test_beir_under_its_names_and_ours() -> None:
    expected = Collection("mine", {"1": ("T", "one"), "2": ("", "two")}, {"a": "first"}, {"a": {"1": 2}})
    qrels = [
        {"query-id": "a", "corpus-id": "1", "score": "2"},
        {"query-id": "b", "corpus-id": 2, "score": "0"},
    ]
    assert from_beir("mine", CORPUS, QUERIES, qrels) == expected
    assert expected.document_texts == ["T one", "two"]
    of_query = from_beir("mine", [{"id": "1", "text": "x"}], [{"id": "q", "text": "y", "doc": "1"}], None)
    assert of_query.relevant == {"q": {"1": 1}}


@pytest.mark.parametrize(
    ("queries", "qrels", "message"),
    [
        (QUERIES, [{"query": "c", "doc": "1"}], "mine: qrels names query 'c', which is not among the queries"),
        (QUERIES, [{"query": "a", "doc": "7"}], "mine: qrels names document '7' .*, which is not in the corpus"),
        (QUERIES, [{"query": "a", "doc": "1", "score": 0}], "mine: no query has a relevant document"),
        (QUERIES, [{"query": "a", "doc": "1", "score": "x"}], "qrels: a score is 'x', expected a whole number"),
        (QUERIES, None, r"queries \(there is no qrels\): a row has none of the columns corpus-id, .* it has _id, text"),
        ([{"_id": "a", "query": "x"}], None, "queries: row 1 has no text in the column `text`: .* _id, query"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(queries: list[dict], qrels: list[dict] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_beir("mine", CORPUS, queries, qrels)
