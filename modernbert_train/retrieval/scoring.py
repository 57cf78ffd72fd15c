"""Scores of retrieval by mteb: nDCG@10, MRR@10 and recall@100, over local files or tasks of mteb.

A local collection is made a task of mteb, so that both are searched and scored by the same code. Nothing is cached.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modernbert_train.common.text import did_you_mean, one_line
from modernbert_train.retrieval.collection import Collection
from modernbert_train.retrieval.lexical import LexicalIndex

# Our name of a score -> mteb's.
SCORES = {"ndcg@10": "ndcg_at_10", "mrr@10": "mrr_at_10", "recall@100": "recall_at_100"}
# Of one query, as pytrec_eval names it.
_NDCG_OF_QUERY = "ndcg_cut_10"


@dataclass(frozen=True)
class SetScores:
    """Scores on one collection."""

    # Name in `SCORES` -> the mean over the queries (and over the subsets of a task of mteb).
    means: dict[str, float]
    # nDCG@10 of each query, in the order of their ids.
    ndcg: list[float]


def local_task(name: str, collection: Collection) -> Any:
    """Return a task of mteb with a name for a collection."""
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    task_metadata = TaskMetadata(
        name=name,
        description=name,
        reference=None,
        dataset={"path": f"local/{name}", "revision": "1"},
        type="Retrieval",
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=SCORES["ndcg@10"],
    )

    class LocalTask(AbsTaskRetrieval):
        metadata = task_metadata

    task = LocalTask()
    documents = [
        {"id": key, "title": title, "text": text} for key, (title, text) in collection.documents.items()
    ]
    queries = [{"id": key, "text": text} for key, text in collection.queries.items()]
    split: Any = {
        "corpus": Dataset.from_list(documents),
        "queries": Dataset.from_list(queries),
        "relevant_docs": collection.relevant,
        "top_ranked": None,
    }
    task.dataset = {"default": {"test": split}}
    task.data_loaded = True
    return task


def hub_tasks(names: Sequence[str]) -> dict[str, Any]:
    """Return the tasks of mteb with some names.

    Args:
        names: Of tasks (`SciFact`), of one subset of a task (`MultiLongDocRetrieval/en`), or of benchmarks (`BEIR`),
            which stand for all their tasks.

    Returns:
        Name -> task, which loads its data when it is scored.

    Raises:
        ValueError: mteb knows no such name, or the data cannot be loaded.
    """
    if not names:
        return {}
    import mteb

    known = [task.metadata.name for task in mteb.get_tasks(task_types=["Retrieval"])]
    tasks: dict[str, Any] = {}
    for name in names:
        base, _, subset = name.partition("/")
        if base in known:
            tasks[name] = _hub_task(base, subset)
            continue
        benchmarks = [benchmark.name for benchmark in mteb.get_benchmarks()]  # takes seconds
        if name not in benchmarks:
            hint = did_you_mean(base, [*known, *benchmarks]) or "; see `mteb available-tasks`"
            raise ValueError(f"retrieval.mteb: mteb has no retrieval task or benchmark {name!r}{hint}")
        of_benchmark = mteb.get_benchmark(name).tasks
        tasks |= {task.metadata.name: task for task in of_benchmark if task.metadata.type == "Retrieval"}
    for task in tasks.values():  # before the training, which a download that fails would waste
        for part in _parts(task):
            _load(part)
            part.unload_data()
    return tasks


def _parts(task: Any) -> list[Any]:
    """Return the tasks of an aggregate, such as CQADupstack, or the task itself."""
    from mteb.abstasks.aggregated_task import AbsTaskAggregate

    return list(task.tasks) if isinstance(task, AbsTaskAggregate) else [task]


def _hub_task(name: str, subset: str) -> Any:
    """Return a task of mteb with one subset, or all, and its test split if it has one."""
    import mteb

    task = mteb.get_task(name)
    if subset and subset not in task.hf_subsets:
        hint = did_you_mean(subset, task.hf_subsets) or f"; it has {', '.join(task.hf_subsets)}"
        raise ValueError(f"retrieval.mteb: task {name} has no subset {subset!r}{hint}")
    splits = ["test"] if "test" in task.eval_splits else task.eval_splits
    return mteb.get_task(name, hf_subsets=[subset] if subset else None, eval_splits=splits)


def score(searcher: Any, task: Any, batch_size: int = 32) -> SetScores:
    """Search the documents of a task for its queries, and score what is found.

    Args:
        searcher: A model of sentence-transformers, or a `LexicalSearch`.
        task: A task of mteb.
        batch_size: Texts that are encoded at once.

    Returns:
        The scores.

    Raises:
        ValueError: The data of a task of mteb cannot be loaded.
    """
    parts = [_score_part(searcher, part, batch_size) for part in _parts(task)]
    means = {name: math.fsum(part.means[name] for part in parts) / len(parts) for name in SCORES}
    return SetScores(means, [value for part in parts for value in part.ndcg])


def _score_part(searcher: Any, task: Any, batch_size: int) -> SetScores:
    import mteb

    of_queries: dict[str, float] = {}

    def keep_queries(
        scores: Mapping[str, Mapping[str, float]], *_: object, hf_split: str, hf_subset: str
    ) -> dict[str, float]:
        for query, values in scores.items():
            of_queries[f"{hf_split}/{hf_subset}/{query}"] = values[_NDCG_OF_QUERY]
        return {}

    task.task_specific_scores = keep_queries
    is_local = task.data_loaded
    if not is_local:
        _load(task)
    show = sys.stderr.isatty()
    result = mteb.evaluate(
        searcher,
        task,
        cache=None,
        encode_kwargs={"batch_size": batch_size, "show_progress_bar": show},
        show_progress_bar=show,
        co2_tracker=False,
    ).task_results[0]
    if not is_local:
        task.unload_data()
    found = [entry for entries in result.scores.values() for entry in entries]
    means = {
        name: math.fsum(entry[mteb_name] for entry in found) / len(found)
        for name, mteb_name in SCORES.items()
    }
    return SetScores(means, [of_queries[key] for key in sorted(of_queries)])


def _load(task: Any) -> None:
    try:
        task.load_data()
    except Exception as error:  # of datasets, huggingface_hub and their network clients
        raise ValueError(
            f"retrieval.mteb: the data of {task.metadata.name} cannot be loaded ({one_line(error):.300}); check the "
            "network, or download it and set retrieval.corpus, queries and qrels"
        ) from error


class LexicalSearch:
    """Search by words behind mteb's interface of a search engine, so that baselines are scored as models are.

    Args:
        name: Of the baseline.
        build: Makes an index of documents.
    """

    def __init__(self, name: str, build: type[Any]) -> None:
        from mteb.models.model_meta import ModelMeta

        self.mteb_model_meta = ModelMeta.create_empty(
            overwrites={"name": f"baseline/{name}", "revision": "1"}
        )
        self._build = build
        self._index: LexicalIndex | None = None
        self._ids: list[str] = []

    def index(self, corpus: Any, **_: object) -> None:
        """Index the documents of a task: a dataset with the columns id, title and text."""
        titles = corpus["title"] if "title" in corpus.column_names else [""] * len(corpus)
        self._ids = list(corpus["id"])
        self._index = self._build(
            [f"{title} {text}".strip() for title, text in zip(titles, corpus["text"], strict=True)]
        )

    def search(self, queries: Any, *, top_k: int, **_: object) -> dict[str, dict[str, float]]:
        """Return, for each query, the ids of the best documents and their scores."""
        assert self._index is not None
        found = self._index.search(list(queries["text"]), top_k)
        return {
            query: {self._ids[place]: score for place, score in zip(places, scores, strict=True)}
            for query, (places, scores) in zip(queries["id"], found, strict=True)
        }
