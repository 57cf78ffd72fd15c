import math

import numpy as np
import pytest

from modernbert_train.evaluation.targets import Targets, bucket_of, by_bucket, mean_over_documents


def test_the_standard_error_counts_documents_and_not_tokens() -> None:
    random = np.random.default_rng(0)
    means, errors, naive = [], [], []
    for _ in range(300):
        documents = np.repeat(np.arange(50), random.integers(1, 40, 50))
        losses = random.normal(3, 1, 50)[documents] + random.normal(0, 0.5, len(documents))
        found = mean_over_documents(losses, documents)
        means.append(found.value)
        errors.append(found.error)
        naive.append(losses.std() / math.sqrt(len(losses)))
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.15)
    assert np.mean(naive) < 0.4 * np.std(means)


def test_means_by_hand() -> None:
    of_two = mean_over_documents(np.array([1.0, 3.0, 5.0]), np.array([7, 7, 9]))
    # Residuals of the documents: -2 and 2.
    assert of_two == (3.0, pytest.approx(math.sqrt(2 * 8) / 3))
    of_weights = mean_over_documents(np.array([2.0, 6.0]), np.array([0, 1]), weights=np.array([1, 3]))
    assert of_weights == (2.0, 0.0)
    of_one = mean_over_documents(np.array([True, False]), np.array([4, 4]))
    assert of_one.value == 0.5
    assert math.isnan(of_one.error)
    assert str(of_one) == "0.500"


def test_buckets() -> None:
    tokens = np.array([1, 128, 129, 512, 513, 8_192, 8_193])
    assert bucket_of(tokens).tolist() == [0, 0, 1, 1, 2, 5, 6]
    targets = Targets(
        loss=np.array([1.0, 2, 3, 4, 5, 6, 7]),
        hit=np.array([True, False, True, True, False, False, True]),
        label=np.zeros(7, dtype=np.int64),
        document=np.array([0, 1, 1, 2, 2, 2, 2]),
        position=tokens,
        length=np.full(7, 9_000),
    )
    found = list(by_bucket(targets, targets.position))
    assert [(b.name, b.num_targets, b.num_documents, b.loss.value, b.accuracy.value) for b in found] == [
        ("1 to 128", 2, 2, 1.5, 0.5),
        ("129 to 512", 2, 2, 3.5, 1.0),
        ("513 to 1,024", 1, 1, 5.0, 0.0),
        ("4,097 to 8,192", 1, 1, 6.0, 0.0),
        ("from 8,193", 1, 1, 7.0, 1.0),
    ]
    (whole,) = by_bucket(targets, targets.length)
    assert (whole.name, whole.num_targets, whole.loss.value) == ("from 8,193", 7, 4.0)
