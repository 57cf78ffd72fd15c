"""Scores of single predicted tokens, their means with standard errors, and the same by position and length."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from modernbert_train.common.types import Bool, Float64, Int64

# Upper ends of the buckets, in tokens; one more bucket holds what is beyond the last.
EDGES = (128, 512, 1_024, 2_048, 4_096, 8_192)


@dataclass(frozen=True)
class Targets:
    """The targets of a source and what a model makes of them; arrays with an entry for each target."""

    # Nats.
    loss: Float64
    # Whether the most likely token is the right one.
    hit: Bool
    # Id of the right token.
    label: Int64
    # Number of the document. The pieces of a document that is longer than the context have the same number.
    document: Int64
    # In the piece, from 1, which is [CLS].
    position: Int64
    # Tokens of the piece, with [CLS] and [SEP].
    length: Int64

    def __len__(self) -> int:
        return len(self.loss)

    def where(self, chosen: Bool) -> Targets:
        """Return some of the targets."""
        return Targets(*(getattr(self, field.name)[chosen] for field in fields(self)))

    @staticmethod
    def join(parts: Sequence[Targets]) -> Targets:
        """Return the targets of all parts; there is at least one."""
        return Targets(
            *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Targets))
        )


class Mean(NamedTuple):
    """A mean and its standard error, which is NaN if all values are of one document."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.3f}" + ("" if math.isnan(self.error) else f" ± {self.error:.3f}")


def mean_over_documents(
    values: npt.NDArray[np.generic], documents: Int64, weights: npt.NDArray[np.generic] | None = None
) -> Mean:
    """Compute a mean whose standard error allows for values of a document that resemble each other.

    The mean is a ratio of two sums, whose variance follows from the residuals of the documents (Cochran, Sampling
    Techniques, 1977, section 6.4).

    Args:
        values: Of any type of number [count].
        documents: The number of the document of each value [count].
        weights: What the sum of the values is divided by the sum of [count]; None: 1 for each.

    Returns:
        The mean and its standard error.
    """
    numerators = values.astype(np.float64)
    denominators = np.ones_like(numerators) if weights is None else weights.astype(np.float64)
    total = float(denominators.sum())
    mean = float(numerators.sum()) / total
    _, cluster = np.unique(documents, return_inverse=True)
    residuals = np.bincount(cluster, weights=numerators - mean * denominators)
    if (count := len(residuals)) < 2:
        return Mean(mean, math.nan)
    return Mean(mean, math.sqrt(count / (count - 1) * float((residuals**2).sum())) / total)


@dataclass(frozen=True)
class BucketScore:
    """The scores of the targets whose position, or whose document's length, is from `first` to `last` tokens."""

    first: int
    # None: no limit.
    last: int | None
    num_targets: int
    num_documents: int
    loss: Mean
    accuracy: Mean

    @property
    def name(self) -> str:
        """The range in words."""
        return f"from {self.first:,}" if self.last is None else f"{self.first:,} to {self.last:,}"


def bucket_of(tokens: Int64) -> Int64:
    """Return the bucket of each position or length: its number in `EDGES`, or the number of edges if beyond all."""
    return np.searchsorted(np.array(EDGES), tokens).astype(np.int64)


def bucket_range(number: int) -> tuple[int, int | None]:
    """Return the first and the last position or length of a bucket."""
    return (EDGES[number - 1] + 1 if number else 1), (EDGES[number] if number < len(EDGES) else None)


def by_bucket(targets: Targets, tokens: Int64) -> Iterator[BucketScore]:
    """Yield the scores of each bucket that has a target.

    Args:
        targets: Of a source.
        tokens: What decides the bucket: `targets.position` or `targets.length`.

    Yields:
        Scores, in the order of the buckets.
    """
    buckets = bucket_of(tokens)
    for number in np.unique(buckets).tolist():
        inside = targets.where(buckets == number)
        first, last = bucket_range(number)
        yield BucketScore(
            first,
            last,
            len(inside),
            len(np.unique(inside.document)),
            mean_over_documents(inside.loss, inside.document),
            mean_over_documents(inside.hit, inside.document),
        )
