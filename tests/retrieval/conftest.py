import json
from pathlib import Path
from typing import Any

import pytest

NOUNS = ("lion", "river", "bridge", "candle", "violin", "harbor", "ladder", "meadow", "pepper", "rocket")
ADJECTIVES = ("old", "green")

SUITE = """
defaults: {batch_size: 8, max_tokens: 48, learning_rate: 1e-3, device: cpu, seeds: [3]}
tasks:
  pairs:
    kind: retrieval
    text: [query, text]
    files: {train: pairs.jsonl, valid: pairs.jsonl}
    retrieval: {query_tokens: 32, steps: 6, dimension: 16, negative_ranks: [2, 6]}
  beir:
    kind: retrieval
    retrieval: {corpus: corpus.jsonl, queries: queries.jsonl, qrels: qrels.tsv, steps: 0}
  both:
    kind: retrieval
    retrieval: {train_on: [pairs], evaluate_on: [pairs, beir], query_tokens: 32, steps: 2, baselines: true}
  similar:
    kind: regression
    text: [a, b]
    files: {train: scored.jsonl, valid: scored.jsonl}
    epochs: 2
"""


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite of three tasks about the same 20 documents: pairs, a BEIR collection, and similar sentences."""
    folder = tmp_path_factory.mktemp("retrieval-tasks")
    things = [f"{adjective} {noun}" for adjective in ADJECTIVES for noun in NOUNS]
    pairs = [
        {"query": f"Where is the {thing}?", "text": f"We found the {thing} in room {i}.", "id": f"d{i}"}
        for i, thing in enumerate(things)
    ]
    _write_rows(folder / "pairs.jsonl", pairs)
    _write_rows(
        folder / "corpus.jsonl", [{"_id": row["id"], "title": "Note", "text": row["text"]} for row in pairs]
    )
    _write_rows(
        folder / "queries.jsonl", [{"_id": f"q{i}", "text": row["query"]} for i, row in enumerate(pairs)]
    )
    qrels = [f"q{i}\t{row['id']}\t{int(i != 3)}" for i, row in enumerate(pairs)]
    (folder / "qrels.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *qrels]) + "\n")
    scored = [
        {"a": f"The {x} is here.", "b": f"Here is the {y}.", "label": 5.0 if x == y else 1.0}
        for x in things[::2]
        for y in (x, things[1])
    ]
    _write_rows(folder / "scored.jsonl", scored)
    (folder / "suite.yaml").write_text(SUITE)
    return folder / "suite.yaml"


@pytest.fixture(autouse=True)
def _trained_alone(no_process_group: None) -> None:
    """A trainer of sentence-transformers is the only one of its process."""
