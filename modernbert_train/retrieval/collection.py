"""What a retrieval model is scored on: queries, the documents that are searched, and which of them are relevant.

A task names them by pairs (`files.valid`, or a split of the hub): every document of the file is searched. Or by the
files of a BEIR collection (`retrieval.corpus`, `queries`, `qrels`), with the columns `_id`, `title` and `text`, and
`query-id`, `corpus-id` and `score`, which may also be named `id`, `query` and `doc`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modernbert_train.common.text import shorten

Row = Mapping[str, Any]

# Names of the columns of BEIR's files, and those without dashes that other programs write.
ID = ("_id", "id")
QUERY_ID = ("query-id", "query_id", "query", "qid")
DOCUMENT_ID = ("corpus-id", "corpus_id", "doc", "doc_id", "docid", "pid")
SCORE = ("score", "relevance", "label")


@dataclass(frozen=True)
class Collection:
    """Documents that are searched, queries, and the documents that are relevant to each."""

    name: str
    # Id -> title (may be empty) and text.
    documents: dict[str, tuple[str, str]]
    # Id -> text.
    queries: dict[str, str]
    # Id of a query -> id of a relevant document -> how relevant it is, from 1.
    relevant: dict[str, dict[str, int]]

    def __post_init__(self) -> None:
        for query, documents in self.relevant.items():
            if query not in self.queries:
                raise ValueError(f"{self.name}: qrels names query {query!r}, which is not among the queries")
            for document in documents:
                if document not in self.documents:
                    raise ValueError(
                        f"{self.name}: qrels names document {document!r} (query {query!r}), which is not in the corpus"
                    )
        if not self.relevant:
            raise ValueError(
                f"{self.name}: no query has a relevant document; check the columns of queries and qrels"
            )

    @property
    def document_texts(self) -> list[str]:
        """The documents as a model reads them: the title before the text."""
        return [f"{title} {text}".strip() for title, text in self.documents.values()]


def from_pairs(name: str, pairs: Iterable[Sequence[str]]) -> Collection:
    """Make a collection of pairs.

    Equal documents are one document, and equal queries one query, to which the documents of all its pairs are relevant:
    no model could rank one of two equal documents before the other.

    Args:
        name: Of the collection.
        pairs: Query and document; whatever follows is left out.

    Returns:
        The collection.
    """
    queries: dict[str, str] = {}
    documents: dict[str, str] = {}
    relevant: dict[str, dict[str, int]] = {}
    for query, document, *_ in pairs:
        query_id = queries.setdefault(query, f"q{len(queries)}")
        document_id = documents.setdefault(document, f"d{len(documents)}")
        relevant.setdefault(query_id, {})[document_id] = 1
    return Collection(
        name,
        {key: ("", text) for text, key in documents.items()},
        {key: text for text, key in queries.items()},
        relevant,
    )


def from_beir(
    name: str, corpus: Iterable[Row], queries: Sequence[Row], qrels: Iterable[Row] | None
) -> Collection:
    """Make a collection of the rows of BEIR's files.

    Args:
        name: Of the collection.
        corpus: Rows of documents.
        queries: Rows of queries.
        qrels: Rows that say which document is relevant to which query; scores of 0 and below mean that it is not. None:
            each query names its document.

    Returns:
        The collection, without the queries to which no document is relevant.
    """
    documents = {
        _value(row, ID, f"{name}: corpus"): (str(row.get("title") or ""), str(row["text"]))
        for row in _with_text(corpus, f"{name}: corpus")
    }
    texts = {
        _value(row, ID, f"{name}: queries"): str(row["text"])
        for row in _with_text(queries, f"{name}: queries")
    }
    relevant: dict[str, dict[str, int]] = {}
    for row in queries if qrels is None else qrels:
        where = f"{name}: {'queries (there is no qrels)' if qrels is None else 'qrels'}"
        query = _value(row, ID if qrels is None else QUERY_ID, where)
        score = _score(row, where)
        if score > 0:
            relevant.setdefault(query, {})[_value(row, DOCUMENT_ID, where)] = score
    return Collection(
        name, documents, {key: text for key, text in texts.items() if key in relevant}, relevant
    )


def _with_text(rows: Iterable[Row], where: str) -> Iterable[Row]:
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("text"), str):
            raise ValueError(
                f"{where}: row {number} has no text in the column `text`: its columns are {', '.join(row)}"
            )
        yield row


def _value(row: Row, names: Sequence[str], where: str) -> str:
    for name in names:
        if row.get(name) is not None:
            return str(row[name])
    raise ValueError(f"{where}: a row has none of the columns {', '.join(names)}; it has {', '.join(row)}")


def _score(row: Row, where: str) -> int:
    score = next((row[name] for name in SCORE if row.get(name) is not None), 1)
    try:
        return int(float(score))
    except (TypeError, ValueError):
        pass  # not raised here, for its traceback would end in this line of float()
    raise ValueError(f"{where}: a score is {shorten(score)}, expected a whole number")
