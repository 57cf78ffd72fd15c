import numpy as np
import pytest

from modernbert_train.tasks.metrics import UNSEEN, compute_score, compute_scores

LABELS = np.array([0, 0, 1, 1, 1, 0, 1, 0])
PREDICTED = np.array([0, 1, 1, 1, 0, 0, 1, 1])
NAMES = ["no", "yes"]


def test_scores_of_two_classes_are_those_of_the_formulas() -> None:
    tp, fp, fn, tn = 3, 2, 1, 2
    matthews = (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    f1, f1_of_no = 2 * tp / (2 * tp + fp + fn), 2 * tn / (2 * tn + fp + fn)
    assert compute_scores("classification", PREDICTED, LABELS, NAMES) == pytest.approx(
        {"accuracy": 5 / 8, "f1": f1, "macro_f1": (f1 + f1_of_no) / 2, "matthews": matthews}
    )


def test_correlations_are_those_of_numpy_also_with_ties() -> None:
    labels, predicted = np.array([1.0, 2, 2, 5, 4]), np.array([0.1, 0.5, 0.3, 0.3, 0.9])
    ranks = [np.array([1, 2.5, 2.5, 5, 4]), np.array([1, 4, 2.5, 2.5, 5])]
    assert compute_scores("regression", predicted, labels) == pytest.approx(
        {"pearson": np.corrcoef(labels, predicted)[0, 1], "spearman": np.corrcoef(*ranks)[0, 1]}
    )


def test_constant_predictions_have_no_correlation() -> None:
    assert set(compute_scores("regression", np.ones(4), np.arange(4.0)).values()) == {0.0}
    assert compute_score("matthews", np.zeros(4, dtype=int), np.array([0, 1, 0, 1]), NAMES) == 0.0


TAGS = ["O", "B-X", "I-X", "B-Y", "I-Y"]


@pytest.mark.parametrize(
    ("labels", "predicted", "rows", "f1"),
    [
        ([0, 1, 2, 0, 3], [0, 1, 2, 0, 3], [0] * 5, 1.0),
        ([0, 1, 2, 0, 3], [0, 1, 0, 0, 3], [0] * 5, 0.5),  # one of two is right, one of two was found
        ([1, 2, 1, 2], [1, 2, 2, 2], [0] * 4, 0.0),  # B begins another span
        ([1, 2, 2], [2, 2, 2], [0] * 3, 1.0),  # I without a span before it begins one
        ([1, 4], [1, 3], [0] * 2, 1.0),  # so does I of another kind
        ([1, 2, 1, 2], [1, 2, 2, 2], [0, 0, 1, 1], 1.0),  # a row ends its spans
        ([1, 2, 0], [1, 2, UNSEEN], [0] * 3, 1.0),
        ([0, 0], [0, 0], [0, 0], 0.0),
    ],
)
def test_spans_count_as_a_whole(labels: list[int], predicted: list[int], rows: list[int], f1: float) -> None:
    scores = compute_scores("tokens", np.array(predicted), np.array(labels), TAGS, np.array(rows))
    assert scores["span_f1"] == pytest.approx(f1)


def test_unseen_words_are_wrong() -> None:
    scores = compute_scores(
        "tokens", np.array([0, 1, UNSEEN]), np.array([0, 1, 1]), ["N", "V"], np.zeros(3, dtype=int)
    )
    assert scores == pytest.approx({"accuracy": 2 / 3, "macro_f1": (1 + 2 / 3) / 2})
