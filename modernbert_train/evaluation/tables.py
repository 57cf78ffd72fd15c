"""Scores as text tables, and as the numbers of a JSON file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from modernbert_train.common.text import format_table
from modernbert_train.common.types import Int64
from modernbert_train.evaluation.long_context import ContextGain
from modernbert_train.evaluation.masked_lm import SourceScore
from modernbert_train.evaluation.targets import BucketScore, Mean, Targets, by_bucket
from modernbert_train.evaluation.words import CHOSEN_PERCENT, WordScore
from modernbert_train.objectives import OBJECTIVES

_COLUMNS = (
    "unigram loss, baseline accuracy: those of a model that only knows how frequent tokens are; x baseline: accuracy / "
    "baseline accuracy; ±: standard error over documents"
)
_GUESSED = (
    "as bad as guessing among all tokens: these weights look untrained, or do not belong to this tokenizer"
)
_WORSE = (
    "worse than the unigram baseline, which only knows how frequent tokens are: the model has trained too little, its "
    "learning rate is wrong, or this text is unlike what it was trained on"
)
_WORDS = (
    f"bits per byte of {CHOSEN_PERCENT}% of the words, the same words for all models, lower is better; uniform: of a "
    "model to which all tokens of its vocabulary are equally likely; ±: standard error over documents"
)
_GAINS = (
    "loss beyond minus loss up to the old context, on documents that are longer; difference: negative if the first "
    "model gains more from long context than the second; 95% interval by a bootstrap over documents"
)
# A way to see a score by position or by length: its name, and what decides the bucket.
_VIEWS: dict[str, Callable[[Targets], Int64]] = {
    "position": lambda targets: targets.position,
    "length": lambda targets: targets.length,
}


def format_scores(scores: Sequence[SourceScore]) -> str:
    """Return the scores as a text table, what its columns mean, and which sources are worse than the baseline."""
    predicted = OBJECTIVES[scores[0].objective].title
    columns = (
        "source", "tokens", predicted,
        "loss", "unigram loss", "gain (nats)", "perplexity",
        "accuracy", "baseline accuracy", "x baseline",
    )  # fmt: skip
    rows = [
        (
            s.source, f"{s.num_tokens:,}", f"{s.num_targets:,}",
            str(s.mean_loss), f"{s.unigram.loss:.3f}", f"{s.gain:.3f}", f"{s.perplexity:,.1f}",
            _percent(Mean(s.accuracy, s.accuracy_error)), f"{s.unigram.accuracy:.1%}", f"{s.accuracy_ratio:.1f}",
        )
        for s in scores
    ]  # fmt: skip
    lines = [_table(columns, rows, [score.model for score in scores]), "", _COLUMNS]
    if guessed := [_whose(score, scores) for score in scores if score.is_guessed]:
        lines.append(f"{', '.join(guessed)}: {_GUESSED}")
    if worse := [_whose(score, scores) for score in scores if score.gain < 0 and not score.is_guessed]:
        lines.append(f"{', '.join(worse)}: {_WORSE}")
    return "\n".join(lines)


def format_buckets(scores: Sequence[SourceScore]) -> str:
    """Return the scores by position and by length of the document as two text tables."""
    return "\n\n".join(_buckets_table(scores, view) for view in _VIEWS)


def _buckets_table(scores: Sequence[SourceScore], view: str) -> str:
    found = [(score, bucket) for score in scores for bucket in _buckets(score, view)]
    found.sort(key=lambda pair: pair[1].first)  # the models of a bucket together
    rows = [
        (
            score.source, bucket.name, f"{bucket.num_documents:,}", f"{bucket.num_targets:,}",
            str(bucket.loss), f"{math.exp(min(bucket.loss.value, 700)):,.1f}", _percent(bucket.accuracy),
        )
        for score, bucket in found
    ]  # fmt: skip
    title = {"position": "position (tokens)", "length": "document (tokens)"}[view]
    columns = (
        "source", title, "documents", OBJECTIVES[scores[0].objective].title, "loss", "perplexity", "accuracy",
    )  # fmt: skip
    return _table(columns, rows, [score.model for score, _ in found])


def _buckets(score: SourceScore, view: str) -> Iterator[BucketScore]:
    assert score.targets is not None
    return by_bucket(score.targets, _VIEWS[view](score.targets))


def format_gains(gains: Sequence[ContextGain]) -> str:
    """Return the difference of differences between two models as a text table."""
    columns = ("source", "old context", "documents", "first", "second", "difference", "95% interval")
    rows = [
        (
            gain.source, f"{gain.limit:,}", f"{gain.num_documents:,}", f"{gain.first:+.3f}", f"{gain.second:+.3f}",
            f"{gain.difference:+.3f}", f"{gain.low:+.3f} to {gain.high:+.3f}",
        )
        for gain in gains
    ]  # fmt: skip
    return f"{format_table(columns, rows)}\n\n{_GAINS}"


def format_words(scores: Sequence[WordScore]) -> str:
    """Return bits per byte as a text table, with what its columns mean."""
    columns = ("source", "words", "left out", "pieces per word", "bits per byte", "uniform")
    rows = [
        (
            s.source, f"{s.num_words:,}", f"{s.num_left_out:,}", f"{s.num_pieces / s.num_words:.2f}",
            str(s.bits_per_byte), f"{s.uniform_bits_per_byte:.3f}",
        )
        for s in scores
    ]  # fmt: skip
    lines = [_table(columns, rows, [score.model for score in scores]), "", _WORDS]
    if lower := list(dict.fromkeys(score.model for score in scores if score.lower_cases)):
        lines.append(f"{', '.join(lower)}: reads text in small letters, which are easier to predict")
    return "\n".join(lines)


def numbers(
    scores: Sequence[SourceScore], *, with_buckets: bool = False, gains: Sequence[ContextGain] = ()
) -> dict[str, Any]:
    """Return what the tables show, as an object for JSON; numbers that are not known are null."""
    return {
        "scores": [
            {
                "model": score.model,
                "source": score.source,
                "objective": score.objective,
                "tokens": score.num_tokens,
                "targets": score.num_targets,
                **source_numbers(score),
                **(
                    {f"by_{view}": [_bucket_numbers(bucket) for bucket in _buckets(score, view)] for view in _VIEWS}
                    if with_buckets
                    else {}
                ),
            }
            for score in scores
        ],
        "context_gains": [
            {
                "source": gain.source,
                "old_context": gain.limit,
                "documents": gain.num_documents,
                "first": gain.first,
                "second": gain.second,
                "difference": gain.difference,
                "interval": [gain.low, gain.high],
            }
            for gain in gains
        ],
    }  # fmt: skip


def source_numbers(score: SourceScore) -> dict[str, float | None]:
    """Return the scores of a source under their names in JSON."""
    return {
        **numbers_of("loss", score.mean_loss),
        "perplexity": score.perplexity,
        **numbers_of("accuracy", Mean(score.accuracy, score.accuracy_error)),
        "unigram_loss": score.unigram.loss,
        "unigram_accuracy": score.unigram.accuracy,
    }


def word_numbers(scores: Sequence[WordScore]) -> dict[str, Any]:
    """Return bits per byte as an object for JSON."""
    return {
        "words": [
            {
                "model": score.model,
                "source": score.source,
                "documents": score.num_documents,
                "words": score.num_words,
                "bytes": score.num_bytes,
                "pieces": score.num_pieces,
                "left_out": score.num_left_out,
                **numbers_of("bits_per_byte", score.bits_per_byte),
                "uniform_bits_per_byte": score.uniform_bits_per_byte,
                "lower_cases": score.lower_cases,
            }
            for score in scores
        ]
    }


def _bucket_numbers(bucket: BucketScore) -> dict[str, Any]:
    return {
        "first": bucket.first,
        "last": bucket.last,
        "documents": bucket.num_documents,
        "targets": bucket.num_targets,
        **numbers_of("loss", bucket.loss),
        **numbers_of("accuracy", bucket.accuracy),
    }


def numbers_of(name: str, mean: Mean) -> dict[str, float | None]:
    """Return a mean and its standard error, null if it is not known, under their names."""
    return {name: mean.value, f"{name}_error": None if math.isnan(mean.error) else mean.error}


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], models: Sequence[str]) -> str:
    """Format a table with the rows of each source together, and with a column for the model if there are several."""
    if len(set(models)) > 1:
        columns = (columns[0], "model", *columns[1:])
        rows = [(row[0], model, *row[1:]) for row, model in zip(rows, models, strict=True)]
    sources = list(dict.fromkeys(row[0] for row in rows))
    return format_table(columns, sorted(rows, key=lambda row: sources.index(row[0])))


def _whose(score: SourceScore, scores: Sequence[SourceScore]) -> str:
    is_one_model = len({other.model for other in scores}) < 2
    return score.source if is_one_model else f"{score.source} ({score.model})"


def _percent(mean: Mean) -> str:
    return f"{mean.value:.1%}" + ("" if math.isnan(mean.error) else f" ± {100 * mean.error:.1f}")
