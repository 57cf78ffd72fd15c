"""Does a model gain more from long context than another one? The difference of differences by position, and a picture.

A model that is trained longer has a lower loss at every position. Therefore a context extension is judged by what it
changes beyond the old context, compared with what it changes within, against a twin that trained as many tokens
without the extension:

    (loss beyond L - loss up to L) of the extended model - (loss beyond L - loss up to L) of its twin

Negative values speak for the extension. Both losses are of the same documents, those that are longer than L.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modernbert_train.common.pictures import COLOURS, EDGE, INK, style_axis
from modernbert_train.common.types import Float64
from modernbert_train.evaluation.masked_lm import SourceScore
from modernbert_train.evaluation.models import EvaluatedModel
from modernbert_train.evaluation.targets import (
    Targets,
    bucket_of,
    bucket_range,
    by_bucket,
    mean_over_documents,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The name of the row over the documents of all sources.
ALL = "all sources"
_RESAMPLES = 10_000
# Resamples held in memory at once.
_CHUNK = 500
_SEED = 0
_INTERVAL = (2.5, 97.5)


@dataclass(frozen=True)
class ContextGain:
    """What the loss does beyond `limit` tokens in two models, on the documents of a source that are longer."""

    source: str
    limit: int
    num_documents: int
    # Loss beyond the limit minus loss up to it, in nats.
    first: float
    second: float
    # 95% interval of first - second, by a bootstrap over documents.
    low: float
    high: float

    @property
    def difference(self) -> float:
        """The difference of the differences; negative if the first model gains more from the context."""
        return self.first - self.second


def find_limit(models: Sequence[EvaluatedModel], wanted: int | None) -> int | None:
    """Return the position beyond which two models are compared: the shorter one's context, unless a user says another.

    Args:
        models: Any number of them.
        wanted: What the user asks for, if anything.

    Returns:
        The last position of the old context; None if there is nothing to compare.

    Raises:
        ValueError: The user asks for it, and these are not two models with one tokenizer.
    """
    problem = None
    if len(models) != 2:
        problem = f"compares two models, and there {'is' if len(models) == 1 else 'are'} {len(models)}"
    elif models[0].tokenizer.fingerprint != models[1].tokenizer.fingerprint:
        problem = "compares the losses of the same tokens, and these models have different tokenizers"
    if problem is not None:
        if wanted is not None:
            raise ValueError(f"--beyond {problem}; name two models with the same tokenizer, or leave it out")
        return None
    if wanted is not None:
        return wanted
    shorter, longer = sorted(model.context_tokens for model in models)
    return shorter if shorter < longer else None


def compare_beyond(
    first: Sequence[SourceScore], second: Sequence[SourceScore], limit: int
) -> list[ContextGain]:
    """Compare two models source by source, and over all sources if there are several.

    Args:
        first: Scores of the extended model.
        second: Scores of its twin on the same text.
        limit: Tokens of the old context.

    Returns:
        The comparison for each source that has at least two documents that are longer than the limit.
    """
    sums = {}
    for ours in first:
        for theirs in second:
            if ours.source == theirs.source:
                assert ours.targets is not None
                assert theirs.targets is not None
                sums[ours.source] = _sums_by_document(ours.targets, theirs.targets, limit)
    if len(sums) > 1:
        sums[ALL] = np.concatenate(list(sums.values()))
    return [_bootstrap(source, limit, of_source) for source, of_source in sums.items() if len(of_source) > 1]


def _sums_by_document(first: Targets, second: Targets, limit: int) -> Float64:
    """Return the sums of each document that has targets on both sides of the limit: float64 [documents, 6].

    The columns are the number of targets, the loss of the first and that of the second model, each up to the limit and
    beyond it.
    """
    # The same text, tokenizer, context and masks give the same targets.
    assert np.array_equal(first.document, second.document)
    assert np.array_equal(first.position, second.position)
    _, document = np.unique(first.document, return_inverse=True)
    beyond = first.position > limit
    columns = [
        np.bincount(document[side], weights=values[side], minlength=document.max(initial=-1) + 1)
        for values in (np.ones(len(first)), first.loss, second.loss)
        for side in (~beyond, beyond)
    ]
    sums: Float64 = np.column_stack(columns).astype(np.float64)
    return sums[(sums[:, 0] > 0) & (sums[:, 1] > 0)]


def _bootstrap(source: str, limit: int, sums: Float64) -> ContextGain:
    """Resample documents with replacement (Efron, Bootstrap Methods, 1979); the interval is that of percentiles."""
    generator, count = np.random.default_rng(_SEED), len(sums)
    drawn = [
        generator.multinomial(count, np.full(count, 1 / count), size=_CHUNK) @ sums
        for _ in range(_RESAMPLES // _CHUNK)
    ]
    first, second = _gains(np.concatenate(drawn))
    low, high = np.percentile(first - second, _INTERVAL).tolist()
    (of_first,), (of_second,) = _gains(sums.sum(axis=0, keepdims=True))
    return ContextGain(source, limit, count, float(of_first), float(of_second), low, high)


def _gains(sums: Float64) -> tuple[Float64, Float64]:
    """Return loss beyond the limit minus loss up to it, of the first and of the second model, for each row of sums."""
    up_to, beyond, *losses = sums.T
    first_up_to, first_beyond, second_up_to, second_beyond = losses
    return first_beyond / beyond - first_up_to / up_to, second_beyond / beyond - second_up_to / up_to


def write_picture(file: Path, scores: Sequence[SourceScore], gains: Sequence[ContextGain]) -> None:
    """Draw the loss by position of each model and source, and below it the first two models' difference.

    Args:
        file: Picture to write.
        scores: With their targets.
        gains: The comparison of two models; empty if there is none, and then there is one panel only.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(draw_positions(scores, gains)).print_png(file)


def draw_positions(scores: Sequence[SourceScore], gains: Sequence[ContextGain]) -> Figure:
    """Return the figure of `write_picture`."""
    from matplotlib.figure import Figure

    of_models = [
        (name, list(group)) for name, group in groupby(scores, key=lambda score: score.model)
    ]  # the scores come model by model
    figure = Figure(figsize=(9, 8 if gains else 4.5), dpi=130, facecolor="white", layout="constrained")
    axes = np.atleast_1d(figure.subplots(2 if gains else 1, 1, sharex=True))
    buckets = sorted({bucket for score in scores for bucket, _, _ in _by_position(score)})
    _draw_losses(axes[0], of_models)
    if gains:
        _draw_differences(axes[1], of_models[0][1], of_models[1][1], gains[0].limit)
    for axis in axes:
        style_axis(axis)
    axes[-1].set_xticks(buckets, [_label(bucket) for bucket in buckets])
    axes[-1].set_xlabel("position in the document (tokens)", color=INK)
    return figure


def _draw_losses(axis: Axes, of_models: Sequence[tuple[str, Sequence[SourceScore]]]) -> None:
    styles = ("-", "--", ":", "-.")
    for number, (model, scores) in enumerate(of_models):
        for colour, score in zip(_colours(len(scores)), scores, strict=True):
            buckets, losses, errors = zip(*_by_position(score), strict=True)
            label = score.source if len(of_models) == 1 else f"{score.source}: {model}"
            axis.errorbar(
                buckets, losses, yerr=errors, label=label, color=colour, linestyle=styles[number % len(styles)],
                marker="o", markersize=4, linewidth=1.4, elinewidth=0.8,
            )  # fmt: skip
    axis.set_ylabel("loss (nats)", color=INK)
    axis.legend(loc="upper right", fontsize=8, frameon=False, labelcolor=INK)


def _draw_differences(
    axis: Axes, first: Sequence[SourceScore], second: Sequence[SourceScore], limit: int
) -> None:
    theirs = {score.source: score for score in second}
    axis.axhline(0, color=EDGE, linewidth=0.8)
    for colour, score in zip(_colours(len(first)), first, strict=True):
        if score.source not in theirs:
            continue
        ours, other = score.targets, theirs[score.source].targets
        assert ours is not None
        assert other is not None
        lower, numbers = ours.loss - other.loss, bucket_of(ours.position)
        found = [
            (bucket, *mean_over_documents(lower[numbers == bucket], ours.document[numbers == bucket]))
            for bucket in np.unique(numbers).tolist()
        ]
        buckets, differences, errors = zip(*found, strict=True)
        axis.errorbar(
            buckets, differences, yerr=errors, label=score.source, color=colour, marker="o", markersize=4,
            linewidth=1.4, elinewidth=0.8,
        )  # fmt: skip
    (bucket,) = bucket_of(np.array([limit])).tolist()
    first_position, last = bucket_range(bucket)
    inside = 1.0 if last is None else (limit - first_position + 1) / (last - first_position + 1)
    axis.axvline(bucket - 0.5 + inside, color=INK, linewidth=0.8, linestyle=":")
    axis.set_ylabel("first minus second (nats)", color=INK)
    axis.set_title(f"dotted: {limit:,} tokens; bars: standard errors", loc="right", fontsize=8, color=INK)


def _by_position(score: SourceScore) -> Iterator[tuple[int, float, float]]:
    """Yield number, loss and standard error of each bucket of positions."""
    assert score.targets is not None
    for bucket in by_bucket(score.targets, score.targets.position):
        number = int(bucket_of(np.array([bucket.first], dtype=np.int64))[0])
        yield number, bucket.loss.value, float(np.nan_to_num(bucket.loss.error))


def _label(bucket: int) -> str:
    first, last = bucket_range(bucket)
    return f"from {first:,}" if last is None else f"to {last:,}"


def _colours(count: int) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(count)]
