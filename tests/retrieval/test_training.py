import dataclasses
from pathlib import Path

import pytest

from modernbert_train.retrieval.models import load_model
from modernbert_train.retrieval.training import train_contrastive
from modernbert_train.tasks.schema import RetrievalConfig
from modernbert_train.tasks.suite import find_task

QUERIES = [f"what is {letter}?" for letter in "abcdefgh"]


@pytest.mark.parametrize("multi_vector", [False, True])
def test_what_is_beyond_the_length_does_not_count(
    tiny_exported: Path, suite: Path, multi_vector: bool
) -> None:
    """The tokens of the tiny model are bytes; [CLS] and [SEP] count as well."""
    task = dataclasses.replace(find_task(f"{suite}:pairs"), max_tokens=32)
    retrieval = RetrievalConfig(multi_vector=multi_vector, query_tokens=14, dimension=16)

    def losses(query_tail: str, document_tail: str) -> list[float]:
        model = load_model(tiny_exported, task, retrieval, 0, "cpu")
        rows = [(f"{query}{query_tail}", f"{query} {'x' * 30}{document_tail}") for query in QUERIES]
        return train_contrastive(model, {"pairs": rows}, task, retrieval, steps=2, seed=0)

    within = losses("ab", "")
    assert losses("ab and more", " and more") == within
    assert losses("", "") != within


def test_sources_with_and_without_negatives(tiny_exported: Path, suite: Path) -> None:
    """A batch is of one source, so that rows of different columns can be in one run."""
    task, retrieval = find_task(f"{suite}:pairs"), RetrievalConfig(query_tokens=32)
    plain = [(query, query.upper()) for query in QUERIES]
    triplets = [(query, query.title(), query[::-1]) for query in QUERIES]
    found = []
    for seed in (0, 0, 1):
        model = load_model(tiny_exported, task, retrieval, 0, "cpu")
        sources = {"plain": plain, "triplets": triplets}
        found.append(train_contrastive(model, sources, task, retrieval, steps=4, seed=seed))
    assert len(found[0]) == 4
    assert found[0] == found[1] != found[2]
