"""Whether one model is better than another on a task, or only luckier with its rows and seeds.

The rows of a valid set are a sample, and so are the seeds of fine-tuning. Both are taken into account:

- Rows: the metric is computed again on rows drawn with replacement, 2,000 times, for both models on the same rows (a
  paired bootstrap; Efron and Tibshirani 1993, chapter 16).
- Seeds: two to five values are too few to draw from. Three differences of equally good models have the same sign in a
  quarter of all cases, and then a bootstrap over them excludes 0. So the error of their mean is drawn from a normal
  distribution whose variance is drawn, too: from a scaled inverse chi-square distribution, which makes it Student's t,
  less what the seeds differ by because the rows are few.

The sum of both covers the true difference at least as often as it says (a generalized confidence interval; Weerahandi
1993). With one seed the interval covers the rows only, and its reader has to be told.

A difference is `better` or `worse` where its 95% interval excludes 0, and `same` where it does not: the task could not
tell the models apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Numbers: TypeAlias = npt.NDArray[np.float64]
Verdict = Literal["better", "same", "worse"]

NUM_RESAMPLES = 2_000
CONFIDENCE = 0.95
# A difference of this many standard errors is found in four of five tries by a 95% interval: 1.96 + 0.84.
_FOUND = 2.8
# Counts of rows held at once: 32 MB.
_CHUNK = 4_000_000
# Of the scores of single queries, which lie between 0 and 1 and are most often near one of both.
_QUERY_SPREAD = 0.4


@dataclass(frozen=True)
class Rows:
    """What a model has said of the rows of a valid set."""

    # A value for each row: class number, number of a regression, or, for a mean over rows, the row's score.
    predictions: Numbers
    # None for a mean over rows.
    labels: Numbers | None = None
    # Where a row has several values, such as one for each word: the row of each value.
    rows: npt.NDArray[np.int64] | None = None
    # Of the classes.
    names: tuple[str, ...] = ()

    @property
    def num_rows(self) -> int:
        """The number of rows that are resampled."""
        return len(self.predictions) if self.rows is None else int(self.rows.max()) + 1


@dataclass(frozen=True)
class Scores:
    """The scores of one model on one task: as measured, and on resampled rows."""

    seeds: tuple[int, ...]
    # [seeds]
    measured: Numbers
    # [resamples, seeds]; the same resample has the same rows for every model of the task.
    resampled: Numbers

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return float(self.measured.mean())

    @property
    def spread(self) -> float | None:
        """The sample standard deviation over the seeds; None for one seed."""
        return float(self.measured.std(ddof=1)) if len(self.seeds) > 1 else None


@dataclass(frozen=True)
class Estimate:
    """A score, or the difference of two, with the draws that show how far it can be trusted."""

    value: float
    # [resamples]
    draws: Numbers

    @property
    def interval(self) -> tuple[float, float]:
        """The bounds of the 95% interval."""
        outside = (1 - CONFIDENCE) / 2
        low, high = np.quantile(self.draws, [outside, 1 - outside])
        return float(low), float(high)

    @property
    def verdict(self) -> Verdict:
        """What a difference shows."""
        low, high = self.interval
        if low > 0:
            return "better"
        return "worse" if high < 0 else "same"


def resample(metric: str, jobs: Mapping[int, Mapping[str, Rows]], seed: int) -> Scores:
    """Compute the score of a model on a task, measured and resampled; it is the mean over the valid sets.

    Args:
        metric: Name of the metric.
        jobs: Seed of the fine-tuning -> valid set -> rows, which are the same for every seed.
        seed: Of the resamples; the same for all models of a task, another for every task.

    Returns:
        The scores.
    """
    (first, *_) = jobs.values()
    measured, resampled = [], []
    for number, name in enumerate(first):
        sets = [job[name] for job in jobs.values()]
        size = sets[0].num_rows
        compute = _scorer(metric, sets)
        measured.append(compute(np.ones((1, size)))[0])
        chunks = [compute(counts) for counts in draw_counts(size, NUM_RESAMPLES, (seed, number))]
        resampled.append(np.concatenate(chunks))
    return Scores(tuple(jobs), np.mean(measured, axis=0), np.mean(resampled, axis=0))


def estimate(scores: Scores, seed: int = 0) -> Estimate:
    """Return the score of a model with its interval."""
    return _combine(scores.mean, [(scores.measured, scores.resampled)], seed)


def difference(model: Scores, reference: Scores, seed: int = 0) -> Estimate:
    """Return by how much the score of a model is above that of another, with its interval.

    Seeds are paired where both have the same ones.
    """
    if model.seeds == reference.seeds:
        parts = [(model.measured - reference.measured, model.resampled - reference.resampled)]
    else:
        parts = [(model.measured, model.resampled), (-reference.measured, -reference.resampled)]
    return _combine(model.mean - reference.mean, parts, seed)


def mean_estimate(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean over several tasks, whose rows have nothing to do with each other."""
    return Estimate(
        float(np.mean([one.value for one in estimates])), np.mean([one.draws for one in estimates], axis=0)
    )


def _combine(value: float, parts: Sequence[tuple[Numbers, Numbers]], seed: int) -> Estimate:
    """Return the sum of means over seeds with the uncertainty of rows and seeds.

    Args:
        value: The sum as measured.
        parts: For each mean, what was measured [seeds], and that on resampled rows [resamples, seeds].
        seed: Of the draws for the seeds.

    Returns:
        The estimate.
    """
    random = np.random.default_rng(seed)
    draws = np.sum([resampled.mean(axis=1) for _, resampled in parts], axis=0)
    draws += value - draws.mean()
    for measured, resampled in parts:
        num_seeds = len(measured)
        if num_seeds == 1:
            continue
        # Seeds that are equally good on all rows still differ on the rows of a finite set.
        apart = resampled - resampled.mean(axis=1, keepdims=True)
        of_rows = float(apart.var(axis=0, ddof=1).sum()) / (num_seeds - 1)
        squares = measured.var(ddof=1) * (num_seeds - 1)
        of_seeds = squares / random.chisquare(num_seeds - 1, len(draws)) - of_rows
        draws += np.sqrt(np.maximum(of_seeds, 0) / num_seeds) * random.standard_normal(len(draws))
    return Estimate(value, draws)


def smallest_difference(metric: str, sets: Mapping[str, Rows], seed: int = 0) -> float:
    """Estimate, before any run, the smallest difference of two models that the valid rows can show.

    Assumes two models that are equally good, half-way between the most frequent class and no error (correlated by 0.8
    with the label in a regression), and share half of their errors. A true difference of the size returned is found
    in four of five tries. The spread over seeds comes on top of it.

    Args:
        metric: Name of the metric.
        sets: Valid set -> rows, of which the labels count; for a mean over rows only their number.
        seed: Of the simulation.

    Returns:
        The difference, in the unit of the metric.
    """
    random = np.random.default_rng(seed)
    variances = [
        _QUERY_SPREAD**2 / rows.num_rows
        if metric == "ndcg@10"
        else float(np.mean([_simulated_variance(metric, rows, random) for _ in range(4)]))
        for rows in sets.values()
    ]
    return _FOUND * float(np.sqrt(sum(variances))) / len(variances)


def _simulated_variance(metric: str, rows: Rows, random: np.random.Generator) -> float:
    """Return the variance over resampled rows of the difference of two models that are equally good."""
    simulate = _simulated_numbers if metric in ("pearson", "spearman") else _simulated_classes
    pair = [replace(rows, predictions=predictions) for predictions in simulate(_labels(rows), random)]
    compute = _scorer(metric, pair)
    draws = np.concatenate([compute(counts) for counts in draw_counts(rows.num_rows, 300, random)])
    return float((draws[:, 0] - draws[:, 1]).var())


def _simulated_classes(labels: Numbers, random: np.random.Generator) -> Iterator[Numbers]:
    classes, counts = np.unique(labels, return_counts=True)
    half_of_errors = (1 - counts.max() / counts.sum()) / 4
    shared = random.random(len(labels)) < half_of_errors
    for _ in range(2):
        wrong = shared | (random.random(len(labels)) < half_of_errors)
        shift = random.integers(1, max(2, len(classes)), len(labels))
        others = classes[(np.searchsorted(classes, labels) + shift) % len(classes)]
        yield np.where(wrong, others, labels)


def _simulated_numbers(labels: Numbers, random: np.random.Generator) -> Iterator[Numbers]:
    standard = (labels - labels.mean()) / (labels.std() or 1.0)
    shared = random.standard_normal(len(labels))
    for _ in range(2):
        noise = (shared + random.standard_normal(len(labels))) / np.sqrt(2)
        yield 0.8 * standard + 0.6 * noise


# Resampled rows and metrics


def draw_counts(
    num_rows: int, num_resamples: int, seed: int | tuple[int, ...] | np.random.Generator
) -> Iterator[Numbers]:
    """Yield how often each row is drawn in each resample, as arrays [some resamples, rows]."""
    random = np.random.default_rng(seed)
    per_chunk = max(1, _CHUNK // num_rows)
    for start in range(0, num_resamples, per_chunk):
        size = min(per_chunk, num_resamples - start)
        drawn = random.integers(0, num_rows, (size, num_rows)) + num_rows * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * num_rows)
        yield counts.reshape(size, num_rows).astype(np.float64)


def _scorer(metric: str, sets: Sequence[Rows]) -> Callable[[Numbers], Numbers]:
    """Return a function of counts [resamples, rows] that gives the scores [resamples, sets].

    Each of `sets` has the same rows in the same order, with the predictions of one model.
    """
    if metric == "spearman":
        return lambda counts: np.stack([_spearman(counts, rows) for rows in sets], axis=1)
    sums_of, score_of = _SUMS[metric]
    sums = [sums_of(rows) for rows in sets]
    return lambda counts: np.stack([score_of(counts @ columns) for columns in sums], axis=1)


def _labels(rows: Rows) -> Numbers:
    assert rows.labels is not None, "this metric is computed from labels"
    return rows.labels


# All metrics but Spearman's depend on sums over rows alone. For each there is a function of the rows that gives their
# terms [rows, terms], and one of the sums [resamples, terms] that gives the scores [resamples].


def _one(rows: Rows) -> Numbers:
    return np.stack([rows.predictions, np.ones(len(rows.predictions))], axis=1)


def _mean(sums: Numbers) -> Numbers:
    return _ratio(sums[:, 0], sums[:, 1])


def _confusion(rows: Rows) -> Numbers:
    """Return a 1 for each value in the cell (label, prediction), flattened."""
    labels = _labels(rows)
    # One more than there are, for words that the model did not see, whose prediction is -1.
    size = int(max(labels.max(), rows.predictions.max())) + 2
    cell = (labels * size + rows.predictions % size).astype(np.int64)
    row = np.arange(len(cell)) if rows.rows is None else rows.rows
    terms = np.zeros((rows.num_rows, size * size))
    np.add.at(terms, (row, cell), 1)
    return terms


def _span_counts(rows: Rows) -> Numbers:
    """Return for each row twice the number of right spans, and that of expected and predicted ones."""
    from modernbert_train.tasks.metrics import spans  # torch

    assert rows.rows is not None, "spans are of words"
    predicted, expected = (
        set(spans(classes, rows.names, rows.rows)) for classes in (rows.predictions, _labels(rows))
    )
    terms = np.zeros((rows.num_rows, 2))
    for found, column, weight in ((predicted & expected, 0, 2), (predicted, 1, 1), (expected, 1, 1)):
        starts = np.array([start for start, *_ in found], dtype=np.int64)
        terms[:, column] += weight * np.bincount(rows.rows[starts], minlength=rows.num_rows)
    return terms


def _square(sums: Numbers) -> Numbers:
    """Return the confusion matrices [resamples, label, prediction]."""
    size = round(sums.shape[1] ** 0.5)
    return sums.reshape(-1, size, size)


def _accuracy(sums: Numbers) -> Numbers:
    return _ratio(np.trace(_square(sums), axis1=1, axis2=2), sums.sum(axis=1))


def _matthews(sums: Numbers) -> Numbers:
    """Matthews' correlation of several classes (Gorodkin 2004)."""
    confusion, total = _square(sums), sums.sum(axis=1)
    true, predicted = confusion.sum(axis=2), confusion.sum(axis=1)
    covariance = np.trace(confusion, axis1=1, axis2=2) * total - (true * predicted).sum(axis=1)
    spreads = (total**2 - (true**2).sum(axis=1)) * (total**2 - (predicted**2).sum(axis=1))
    return _ratio(covariance, np.sqrt(spreads))


def _f1_by_class(sums: Numbers) -> tuple[Numbers, Numbers]:
    """Return F1 and its denominator, which is 0 for a class that is neither a label nor predicted."""
    confusion = _square(sums)
    both = (confusion.sum(axis=1) + confusion.sum(axis=2))[:, :-1]
    return _ratio(2 * np.diagonal(confusion, axis1=1, axis2=2)[:, :-1], both), both


def _f1(sums: Numbers) -> Numbers:
    """F1 of class 1."""
    return _f1_by_class(sums)[0][:, 1:2].sum(axis=1)


def _macro_f1(sums: Numbers) -> Numbers:
    """Mean F1 of the classes that are a label or predicted."""
    scores, present = _f1_by_class(sums)
    return _ratio(scores.sum(axis=1), (present > 0).sum(axis=1))


def _moments(rows: Rows) -> Numbers:
    # Centred, so that differences of large sums stay exact.
    y, x = _labels(rows) - _labels(rows).mean(), rows.predictions - rows.predictions.mean()
    return np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], axis=1)


def _pearson(sums: Numbers) -> Numbers:
    total, x, y, xx, yy, xy = sums.T
    return _ratio(xy - x * y / total, np.sqrt(np.maximum(xx - x * x / total, 0) * (yy - y * y / total)))


_SUMS: dict[str, tuple[Callable[[Rows], Numbers], Callable[[Numbers], Numbers]]] = {
    "accuracy": (_confusion, _accuracy),
    "matthews": (_confusion, _matthews),
    "f1": (_confusion, _f1),
    "macro_f1": (_confusion, _macro_f1),
    "pearson": (_moments, _pearson),
    "ndcg@10": (_one, _mean),
    "span_f1": (_span_counts, _mean),
}


def _spearman(counts: Numbers, rows: Rows) -> Numbers:
    """Pearson's correlation of the ranks within each resample; equal values share their mean rank."""
    middle = (counts.sum(axis=1, keepdims=True) + 1) / 2  # the mean of all ranks
    x, y = _ranks(counts, rows.predictions) - middle, _ranks(counts, _labels(rows)) - middle
    weighted = counts * y
    spreads = np.einsum("br,br,br->b", counts, x, x) * np.einsum("br,br->b", weighted, y)
    return _ratio(np.einsum("br,br->b", weighted, x), np.sqrt(spreads))


def _ranks(counts: Numbers, values: Numbers) -> Numbers:
    """Return the rank of each row in each resample [resamples, rows]; a row that was not drawn has any rank."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    sizes = np.add.reduceat(counts[:, order], starts, axis=1)
    return (np.cumsum(sizes, axis=1) - (sizes - 1) / 2)[:, group]


def _ratio(numerator: Numbers, denominator: Numbers) -> Numbers:
    """Divide, with 0 where the denominator is 0."""
    return np.divide(
        numerator, denominator, out=np.zeros(np.shape(numerator)), where=np.asarray(denominator) > 0
    )
