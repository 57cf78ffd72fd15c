"""Search by words: BM25 and the cosine of TF-IDF, the baselines of a retrieval model; and hard negatives by BM25.

One tokenization for all of them: runs of two or more letters, digits and underscores, in lower case, without the
English stop words of bm25s; words are not stemmed. BM25 is Lucene's, with k1 = 1.5 and b = 0.75 (Kamphuis et al., 2020,
"Which BM25 do you mean?", table 1):

    sum over the words of the query: ln(1 + (N - n + 0.5) / (n + 0.5)) f / (f + k1 (1 - b + b |d| / mean |d|))

N documents, of which n have the word; the document has it f times and |d| words in all. TF-IDF: (1 + ln f) times
ln((1 + N) / (1 + n)) + 1, divided by the norm of the document.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

WORD = r"(?u)\b\w\w+\b"
STOP_WORDS = "english"
K1, B = 1.5, 0.75
TOKENIZATION = (
    "runs of 2 or more letters, digits and _, lower case, without bm25s's English stop words, unstemmed"
)
# Queries whose scores for all documents are held in memory.
_QUERIES_AT_ONCE = 256


class LexicalIndex(Protocol):
    """Documents that are searched by words."""

    def search(self, queries: Sequence[str], top: int) -> Iterator[tuple[list[int], list[float]]]:
        """Yield, for each query, the numbers of the best documents, best first, and their scores."""
        ...


class Bm25:
    """BM25 of bm25s over some documents."""

    def __init__(self, documents: Sequence[str]) -> None:
        import bm25s

        self._index = bm25s.BM25(k1=K1, b=B, method="lucene")
        self._index.index(_words(documents), show_progress=False)
        self._num_documents = len(documents)

    def search(self, queries: Sequence[str], top: int) -> Iterator[tuple[list[int], list[float]]]:
        """Yield, for each query, the numbers of the best documents, best first, and their scores."""
        words = _words(queries)
        found, scores = self._index.retrieve(words, k=min(top, self._num_documents), show_progress=False)
        yield from zip(found.tolist(), scores.tolist(), strict=True)


class TfIdf:
    """Cosine of TF-IDF vectors over some documents."""

    def __init__(self, documents: Sequence[str]) -> None:
        from bm25s.tokenization import STOPWORDS_EN
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._vectorizer = TfidfVectorizer(
            lowercase=True, token_pattern=WORD, stop_words=list(STOPWORDS_EN), sublinear_tf=True
        )
        self._documents = self._vectorizer.fit_transform(documents)

    def search(self, queries: Sequence[str], top: int) -> Iterator[tuple[list[int], list[float]]]:
        """Yield, for each query, the numbers of the best documents, best first, and their scores."""
        vectors = self._vectorizer.transform(queries)
        for first in range(0, len(queries), _QUERIES_AT_ONCE):
            scores = (vectors[first : first + _QUERIES_AT_ONCE] @ self._documents.T).toarray()
            order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
            for row, best in zip(scores, order, strict=True):
                yield best.tolist(), row[best].tolist()


LEXICAL = {"BM25": Bm25, "TF-IDF cosine": TfIdf}


def _words(texts: Sequence[str]) -> Any:
    import bm25s

    return bm25s.tokenize(
        list(texts), lower=True, token_pattern=WORD, stopwords=STOP_WORDS, show_progress=False
    )


def mine_negatives(
    pairs: Sequence[tuple[str, str]], number: int, ranks: tuple[int, int], seed: int
) -> list[list[str]]:
    """Return hard negatives: documents that share words with a query and do not answer it.

    They are drawn from BM25's ranks of all documents of the pairs, without those that are paired with the query. The
    first ranks are left out, since some of their documents do answer it.

    Args:
        pairs: Query and document.
        number: Negatives for each pair.
        ranks: First and last rank to draw from, counted from 1. With fewer documents, from the last `number` ranks
            there are.
        seed: Of the choice.

    Returns:
        `number` documents for each pair.

    Raises:
        ValueError: There are too few documents.
    """
    documents = list(dict.fromkeys(document for _, document in pairs))
    queries = list(dict.fromkeys(query for query, _ in pairs))
    answers: dict[str, set[str]] = {}
    for query, document in pairs:
        answers.setdefault(query, set()).add(document)
    most = max(map(len, answers.values()))
    if len(documents) < most + number:
        raise ValueError(
            f"retrieval.hard_negatives is {number}, but the training pairs have {len(documents)} documents, up to "
            f"{most} of them for one query; lower it, or set it to 0"
        )
    first, last = ranks
    choose, ranked = random.Random(seed), {}
    for query, (found, _) in zip(queries, Bm25(documents).search(queries, last + most), strict=True):
        others = [documents[place] for place in found if documents[place] not in answers[query]][:last]
        ranked[query] = others[min(first - 1, len(others) - number) :]
    return [choose.sample(ranked[query], number) for query, _ in pairs]
