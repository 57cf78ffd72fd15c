"""One retrieval job, `modernbert retrieve`: train a model on pairs, score it, and write the folder of both.

    OUT/  a folder of sentence-transformers (SentenceTransformer or MultiVectorEncoder)
    OUT/result.json   OUT/predictions.npz

A task of kind retrieval is scored by nDCG@10; a regression on two texts, such as STS-B, by the correlation of their
cosine with the label.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from modernbert_train.common.extras import require_extra
from modernbert_train.common.files import check_new_folder, new_folder
from modernbert_train.common.text import format_table
from modernbert_train.retrieval.collection import Collection
from modernbert_train.retrieval.inputs import Pair, read_searched, read_training_pairs
from modernbert_train.retrieval.lexical import LEXICAL, TOKENIZATION, mine_negatives
from modernbert_train.retrieval.models import cut_share, load_model, save_model
from modernbert_train.retrieval.scoring import (
    SCORES,
    LexicalSearch,
    SetScores,
    hub_tasks,
    local_task,
    score,
)
from modernbert_train.retrieval.training import num_steps, train_contrastive, train_similarity
from modernbert_train.tasks.device import device_of
from modernbert_train.tasks.metrics import compute_scores
from modernbert_train.tasks.reading import read_task
from modernbert_train.tasks.results import JobResult, settings_of, write_result
from modernbert_train.tasks.schema import RetrievalConfig, Suite, Task
from modernbert_train.tasks.suite import load_suite, locate

log = logging.getLogger(__name__)

_PACKAGES = ("sentence-transformers", "accelerate", "mteb", "bm25s", "scikit-learn")


@dataclass
class _Outcome:
    """What a job has found, in the form of a record."""

    step: int
    # Score -> set -> value.
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    predictions: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    num_rows: dict[str, int] = field(default_factory=dict)
    cut_share: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


def retrieve(
    model: str,
    reference: str,
    out: str | Path,
    overrides: Sequence[str] = (),
    multi_vector: bool = False,
) -> JobResult:
    """Run a job and write its folder, which appears when it is complete.

    Args:
        model: A run folder, a checkpoint, a Hugging Face folder or a name of the hub.
        reference: A task: `FILE.yaml:NAME`, or the name of one that ships with the package.
        out: A folder that is empty or does not exist.
        overrides: `key=value`, for the task.
        multi_vector: Sets `retrieval.multi_vector`.

    Returns:
        The record of the job.

    Raises:
        ValueError: There is no such task or model, the data is wrong, or `out` is not empty.
        FloatingPointError: The loss is not finite.
    """
    check_new_folder(out)
    require_extra("evaluation", *_PACKAGES)
    file, name = locate(reference)
    chosen = ["retrieval.multi_vector=true"] if multi_vector else []
    suite = load_suite(file, [*overrides, *chosen], only=name)
    task = suite.tasks[name]
    retrieval = task.retrieval or RetrievalConfig()
    seed = task.job_seed
    device, bf16 = device_of(task)
    started = time.monotonic()
    _check_kind(task, retrieval, reference)
    run = _retrieval_job if task.kind == "retrieval" else _similarity_job
    outcome, trained = run(model, suite, task, retrieval, seed, device)
    result = JobResult(
        task=task.name,
        kind=task.kind,
        model=model,
        seed=seed,
        metric=task.metric,
        scores=outcome.scores,
        kept="last",
        step=outcome.step,
        settings=settings_of(task),
        protocol=task.protocol,
        num_rows=outcome.num_rows,
        cut_share=outcome.cut_share,
        seconds=time.monotonic() - started,
        random_twin=task.random_twin,
        details={"device": device.type, "precision": "bf16" if bf16 else "fp32", **outcome.details},
    )
    with new_folder(Path(out)) as folder:
        save_model(trained, folder)
        write_result(folder, result, outcome.predictions)
    return result


def _check_kind(task: Task, retrieval: RetrievalConfig, reference: str) -> None:
    if task.kind == "retrieval":
        return
    if task.kind != "regression" or len(task.text) != 2:
        raise ValueError(
            f"{reference} is of kind {task.kind} on {len(task.text)} text columns; `modernbert retrieve` runs tasks of "
            "kind retrieval, and of kind regression on two texts; run `modernbert finetune` for this one"
        )
    if retrieval.multi_vector:
        raise ValueError(
            f"{reference} compares pairs of texts by the cosine of their vectors: leave --multi-vector out"
        )


def _retrieval_job(
    model: str, suite: Suite, task: Task, retrieval: RetrievalConfig, seed: int, device: torch.device
) -> tuple[_Outcome, Any]:
    sources = {} if retrieval.steps == 0 else read_training_pairs(suite, task, retrieval)
    searched = read_searched(suite, task, retrieval)
    local = {name: local_task(name, collection) for name, collection in searched.local.items()}
    tasks = local | hub_tasks(searched.mteb)
    num_pairs = sum(map(len, sources.values()))
    steps = num_steps(task, retrieval, num_pairs)
    rows = {name: _with_negatives(pairs, retrieval, seed) for name, pairs in sources.items()}
    encoder = load_model(model, task, retrieval, seed, device.type)
    losses = train_contrastive(encoder, rows, task, retrieval, steps, seed) if steps else []
    with torch.autocast(device.type, torch.bfloat16, enabled=device_of(task)[1]):
        found = {name: score(encoder, of_mteb, task.batch_size) for name, of_mteb in tasks.items()}
    details: dict[str, Any] = {"losses": losses, "num_documents": _sizes(searched.local)}
    details |= {"query_tokens": encoder[0].query_length, "document_tokens": encoder[0].document_length}
    if retrieval.baselines:
        details["baselines"] = _baselines(tasks)
        details["tokenization"] = TOKENIZATION
    outcome = _Outcome(
        step=steps,
        scores=_by_metric(found),
        predictions={f"{name}.scores": np.array(of_set.ndcg) for name, of_set in found.items()},
        num_rows={"train": num_pairs, **{name: len(of_set.ndcg) for name, of_set in found.items()}},
        cut_share=_cut_shares(encoder, rows, searched.local),
        details=details,
    )
    return outcome, encoder


def _with_negatives(pairs: Sequence[Pair], retrieval: RetrievalConfig, seed: int) -> list[tuple[str, ...]]:
    """Return rows of query, document and negatives: those of the pairs, or mined ones."""
    stated = min(len(pair.negatives) for pair in pairs)
    if stated or not retrieval.hard_negatives:
        return [(pair.query, pair.document, *pair.negatives[:stated]) for pair in pairs]
    plain = [(pair.query, pair.document) for pair in pairs]
    mined = mine_negatives(plain, retrieval.hard_negatives, retrieval.negative_ranks, seed)
    return [(*pair, *negatives) for pair, negatives in zip(plain, mined, strict=True)]


def _sizes(local: Mapping[str, Collection]) -> dict[str, int]:
    return {name: len(collection.documents) for name, collection in local.items()}


def _baselines(tasks: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Return baseline -> score -> set -> value."""
    found = {
        name: {of_set: score(LexicalSearch(name, build), task) for of_set, task in tasks.items()}
        for name, build in LEXICAL.items()
    }
    return {name: _by_metric(sets) for name, sets in found.items()}


def _by_metric(sets: Mapping[str, SetScores]) -> dict[str, dict[str, float]]:
    return {metric: {name: scores.means[metric] for name, scores in sets.items()} for metric in SCORES}


def _cut_shares(
    encoder: Any, rows: Mapping[str, Sequence[tuple[str, ...]]], local: Mapping[str, Collection]
) -> dict[str, float]:
    longest = encoder[0].document_length
    documents = [row[1] for source in rows.values() for row in source]
    shares = {"train": cut_share(encoder, documents, longest)} if documents else {}
    return shares | {
        name: cut_share(encoder, collection.document_texts, longest) for name, collection in local.items()
    }


def _similarity_job(
    model: str, suite: Suite, task: Task, retrieval: RetrievalConfig, seed: int, device: torch.device
) -> tuple[_Outcome, Any]:
    rows = read_task(task)
    steps = num_steps(task, retrieval, len(rows.train))
    encoder = load_model(model, task, retrieval, seed, device.type)
    losses = []
    if steps:
        lowest, highest = min(rows.train.labels), max(rows.train.labels)
        span = (highest - lowest) or 1.0
        scaled = [
            (first, second, (label - lowest) / span)
            for (first, second), label in zip(rows.train.texts, rows.train.labels, strict=True)
        ]
        losses = train_similarity(encoder, scaled, task, retrieval, steps, seed)
    longest = encoder[0].document_length
    outcome = _Outcome(step=steps, details={"losses": losses, "document_tokens": longest})
    for name, of_set in {"train": rows.train, **rows.valid}.items():
        outcome.num_rows[name] = len(of_set)
        outcome.cut_share[name] = cut_share(
            encoder, [text for pair in of_set.texts for text in pair], longest
        )
    for name, of_set in rows.valid.items():
        first, second = (
            encoder.encode_document([pair[side] for pair in of_set.texts], batch_size=task.batch_size)
            for side in (0, 1)
        )
        predictions, labels = encoder.similarity_pairwise(first, second).numpy(), np.array(of_set.labels)
        outcome.predictions |= {f"{name}.predictions": predictions, f"{name}.labels": labels}
        for metric, value in compute_scores(task.kind, predictions, labels).items():
            outcome.scores.setdefault(metric, {})[name] = value
    return outcome, encoder


def describe(result: JobResult) -> str:
    """Return the scores of a job as a text table, beside those of the baselines."""
    baselines: dict[str, Any] = result.details.get("baselines", {})
    sets = list(next(iter(result.scores.values())))
    rows = [
        [name, title, *(f"{scores[metric][name]:.3f}" for metric in result.scores)]
        for name in sets
        for title, scores in {"model": result.scores, **baselines}.items()
    ]
    lines = [format_table(["scored on", "", *result.scores], rows)]
    cut = [f"{share:.0%} of {name}" for name, share in result.cut_share.items() if share > 0]
    if cut:
        lines.append(f"cut at {result.details['document_tokens']} tokens: {', '.join(cut)}")
    return "\n".join(lines)
