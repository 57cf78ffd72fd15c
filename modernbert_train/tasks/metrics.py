"""Scores of predictions: torchmetrics', and the F1 of spans as CoNLL counts them. Higher is better in all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from modernbert_train.common.lean_imports import lean_imports
from modernbert_train.common.types import Int64
from modernbert_train.tasks.schema import OUTSIDE, have_spans

with lean_imports():
    from torchmetrics.functional import classification as of_classes
    from torchmetrics.functional import pearson_corrcoef, spearman_corrcoef

# Of a word that the model did not see, since its row was cut: never right, and outside of every span.
UNSEEN = -1

Array = npt.NDArray[Any]


def compute_scores(
    kind: str, predictions: Array, labels: Array, names: Sequence[str] = (), rows: Int64 | None = None
) -> dict[str, float]:
    """Return every score that makes sense for a kind of task.

    Args:
        kind: "classification", "regression" or "tokens".
        predictions: [N], numbers of classes; regression: numbers. Tokens: of all words, row after row.
        labels: [N], the same for the labels.
        names: of the classes.
        rows: [N], tokens: the row of each word.

    Returns:
        Name -> value.
    """
    if kind == "regression":
        metrics = ["spearman", "pearson"]
    elif kind == "tokens":
        metrics = ["accuracy", "macro_f1", *(["span_f1"] if have_spans(names) else [])]
    else:
        metrics = ["accuracy", *(["f1"] if len(names) == 2 else []), "macro_f1", "matthews"]
    return {metric: compute_score(metric, predictions, labels, names, rows) for metric in metrics}


def compute_score(
    metric: str, predictions: Array, labels: Array, names: Sequence[str] = (), rows: Int64 | None = None
) -> float:
    """Return one score; arguments as for `compute_scores`. A score that is not defined, such as of a constant, is 0."""
    if metric == "span_f1":
        assert rows is not None
        return span_f1(predictions, labels, names, rows)
    if metric == "accuracy":
        return float(np.mean(predictions == labels))
    if metric in ("pearson", "spearman"):
        if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
            return 0.0
        correlation = {"pearson": pearson_corrcoef, "spearman": spearman_corrcoef}[metric]
        score = correlation(
            torch.tensor(predictions, dtype=torch.float64), torch.tensor(labels, dtype=torch.float64)
        )
        return float(score)
    # Words that were not seen get a class of their own, which no label has.
    num_classes = len(names) + 1
    predicted = torch.tensor(np.where(predictions == UNSEEN, len(names), predictions))
    expected = torch.tensor(labels)
    if metric == "f1":  # of class 1, as in GLUE's MRPC and QQP
        return of_classes.binary_f1_score(predicted, expected).item()
    if metric == "macro_f1":  # over the classes that occur
        each = of_classes.multiclass_f1_score(predicted, expected, num_classes=num_classes, average="none")
        seen = torch.cat([predicted, expected]).unique()
        return each[seen[seen < len(names)]].mean().item()
    assert metric == "matthews", metric
    score = of_classes.multiclass_matthews_corrcoef(predicted, expected, num_classes=num_classes).item()
    return score if math.isfinite(score) else 0.0


def span_f1(predictions: Array, labels: Array, names: Sequence[str], rows: Int64) -> float:
    """Return the F1 of whole spans: right if first word, last word and kind are (CoNLL-2003, as conlleval counts).

    Args:
        predictions: [N], classes of words.
        labels: [N].
        names: of the classes.
        rows: [N], the row of each word: spans end with the row.
    """
    predicted = set(spans(predictions, names, rows))
    expected = set(spans(labels, names, rows))
    right = len(predicted & expected)
    return 2 * right / (len(predicted) + len(expected)) if right else 0.0


def spans(classes: Array, names: Sequence[str], rows: Int64) -> Iterator[tuple[int, int, str]]:
    """Yield first word, end and kind of each span. `I-X` that follows no X begins one, as in conlleval."""
    start, kind = 0, ""
    row_before = -1
    for word, (number, row) in enumerate(zip(classes.tolist(), rows.tolist(), strict=True)):
        name = OUTSIDE if number == UNSEEN else names[number]
        continues = name == f"I-{kind}" and row == row_before
        if kind and not continues:
            yield start, word, kind
            kind = ""
        if name != OUTSIDE and not continues:
            start, kind = word, name[2:]
        row_before = row
    if kind:
        yield start, len(classes), kind
