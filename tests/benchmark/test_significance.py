import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from modernbert_train.benchmark.significance import (
    NUM_RESAMPLES,
    Rows,
    Scores,
    difference,
    draw_counts,
    estimate,
    mean_estimate,
    resample,
    smallest_difference,
)
from modernbert_train.tasks.metrics import compute_score

RANDOM = np.random.default_rng(0)
ROWS = 120


def numbers():
    """Labels and predictions of a regression, with ties in both."""
    labels = RANDOM.integers(0, 11, ROWS) / 2
    return labels, np.round(labels + RANDOM.normal(0, 1.5, ROWS), 1)


def classes(count):
    labels = RANDOM.integers(0, count, ROWS).astype(float)
    return labels, np.where(RANDOM.random(ROWS) < 0.3, RANDOM.integers(0, count, ROWS), labels).astype(float)


ORACLES = {
    "accuracy": (lambda: classes(3), metrics.accuracy_score),
    "matthews": (lambda: classes(3), metrics.matthews_corrcoef),
    "f1": (lambda: classes(2), metrics.f1_score),
    "macro_f1": (lambda: classes(3), lambda y, x: metrics.f1_score(y, x, average="macro")),
    "pearson": (numbers, lambda y, x: stats.pearsonr(y, x)[0]),
    "spearman": (numbers, lambda y, x: stats.spearmanr(y, x)[0]),
    "ndcg@10": (numbers, lambda _, x: x.mean()),
}


@pytest.mark.parametrize("metric", ORACLES)
def test_a_metric_on_resampled_rows_is_that_of_the_libraries(metric):
    make, oracle = ORACLES[metric]
    labels, predictions = make()
    found = resample(metric, {7: {"valid": Rows(predictions, labels)}}, seed=3)
    assert found.measured == pytest.approx([oracle(labels, predictions)], abs=1e-9)
    counts = np.concatenate(list(draw_counts(ROWS, NUM_RESAMPLES, (3, 0))))
    assert set(counts.sum(axis=1)) == {ROWS}
    for number in (0, 1, 1_999):
        drawn = np.repeat(np.arange(ROWS), counts[number].astype(int))
        assert found.resampled[number, 0] == pytest.approx(
            oracle(labels[drawn], predictions[drawn]), abs=1e-9
        )


def test_large_sets_are_resampled_in_parts_that_are_the_same_rows(monkeypatch):
    whole = np.concatenate(list(draw_counts(50, 30, 1)))
    monkeypatch.setattr("modernbert_train.benchmark.significance._CHUNK", 350)
    parts = list(draw_counts(50, 30, 1))
    assert len(parts) == 5
    assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("metric", ["matthews", "pearson", "spearman", "f1"])
def test_a_model_that_says_the_same_of_every_row_has_no_score(metric):
    labels, _ = classes(2)
    found = resample(metric, {0: {"valid": Rows(np.zeros(ROWS), labels)}}, seed=0)
    assert found.measured == [0]
    assert not found.resampled.any()


def simulate(random, quality, num_seeds, seed_spread, num_rows=80):
    """A model whose seeds differ: rows share a difficulty, and each seed has a quality of its own."""
    difficulty = random.normal(0, 1, num_rows)
    labels = np.ones(num_rows)

    def model(shift):
        return {
            seed: {
                "valid": Rows(
                    (difficulty + random.normal(0, 1, num_rows) < shift + random.normal(0, seed_spread))
                    * 1.0,
                    labels,
                )
            }
            for seed in range(num_seeds)
        }

    return model(quality), model(0.8)


@pytest.mark.parametrize(
    ("num_seeds", "seed_spread"), [(1, 0.0), pytest.param(2, 0.3, marks=pytest.mark.slow), (3, 0.6)]
)
def test_equally_good_models_are_rarely_said_to_differ(monkeypatch, num_seeds, seed_spread):
    """At most 5% of 1,000 pairs, however much the seeds matter; an exact interval would say so of 2.5%."""
    monkeypatch.setattr("modernbert_train.benchmark.significance.NUM_RESAMPLES", 200)
    random = np.random.default_rng(1)
    verdicts = []
    for number in range(1_000):
        model, reference = simulate(random, 0.8, num_seeds, seed_spread)
        scores = (resample("accuracy", one, number) for one in (model, reference))
        verdicts.append(difference(*scores, seed=number).verdict)
    assert verdicts.count("better") <= 50
    assert verdicts.count("worse") <= 50


def test_a_real_difference_is_found(monkeypatch):
    """The smallest difference that a task can show is found in about four of five tries."""
    monkeypatch.setattr("modernbert_train.benchmark.significance.NUM_RESAMPLES", 200)
    random = np.random.default_rng(2)
    labels = (random.random(400) < 0.5) * 1.0
    shown = smallest_difference("accuracy", {"valid": Rows(labels, labels)})
    assert shown == pytest.approx(2.8 * np.sqrt(2 * 0.125 * 0.875 / 400), rel=0.15)
    found = 0
    for number in range(200):
        shared = random.random(400) < 0.125
        right = [~(shared | (random.random(400) < 0.125 - extra)) for extra in (0.0, shown)]
        reference, model = (
            resample("accuracy", {0: {"valid": Rows(np.where(one, labels, 1 - labels), labels)}}, number)
            for one in right
        )
        found += difference(model, reference).verdict == "better"
    assert 0.65 < found / 200 < 0.95


def test_the_smallest_difference_shrinks_with_the_root_of_the_rows():
    values = {}
    for size in (100, 1_600):
        labels = np.arange(size) % 3.0
        for metric in ("spearman", "matthews", "macro_f1"):
            values[metric, size] = smallest_difference(metric, {"valid": Rows(labels, labels)})
        values["ndcg@10", size] = smallest_difference("ndcg@10", {"valid": Rows(labels)})
    for metric in ("spearman", "matthews", "macro_f1", "ndcg@10"):
        assert values[metric, 100] / values[metric, 1_600] == pytest.approx(4, rel=0.35)
    two_sets = smallest_difference("ndcg@10", {"a": Rows(np.zeros(100)), "b": Rows(np.zeros(100))})
    assert two_sets == pytest.approx(values["ndcg@10", 100] / 2**0.5)


def test_intervals_by_hand():
    """Rows that all are the same: what is left is the spread of three seeds, and Student's t with 2 degrees."""
    same = np.zeros((NUM_RESAMPLES, 3))
    model = Scores((1, 2, 3), np.array([0.81, 0.82, 0.83]), same + np.array([0.81, 0.82, 0.83]))
    low, high = estimate(model).interval
    half = stats.t.ppf(0.975, 2) * 0.01 / 3**0.5
    assert (low, high) == pytest.approx((0.82 - half, 0.82 + half), abs=0.2 * half)
    assert model.spread == pytest.approx(0.01)
    shifted = Scores((1, 2, 3), model.measured - 0.02, model.resampled - 0.02)
    assert difference(model, shifted).interval == pytest.approx((0.02, 0.02))  # paired by seed
    assert difference(model, shifted).verdict == "better"
    assert difference(shifted, model).verdict == "worse"
    one = Scores((0,), np.array([0.8]), np.full((NUM_RESAMPLES, 1), 0.8))
    low, high = difference(model, one).interval
    assert (low, high) == pytest.approx((0.02 - half, 0.02 + half), abs=0.2 * half)
    assert difference(model, one).verdict == "same"
    assert one.spread is None
    both = mean_estimate([difference(model, shifted), difference(one, one)])
    assert both.value == pytest.approx(0.01)
    assert both.verdict == "better"


def test_seeds_that_happen_to_agree_do_not_make_an_interval_narrow():
    """Two seeds are wrong on other rows, and both 2 points better: the rows still leave much open."""
    labels = np.ones(100)
    jobs = [{}, {}]
    for seed in (1, 2):
        order = np.random.default_rng(seed).permutation(100)
        for model, wrong in enumerate((order[:20], order[20:42])):
            jobs[model][seed] = {"valid": Rows(np.where(np.isin(np.arange(100), wrong), 0.0, 1.0), labels)}
    found = difference(*(resample("accuracy", job, 0) for job in jobs))
    low, high = found.interval
    assert found.value == pytest.approx(0.02)
    assert low < -0.05
    assert high > 0.09


def test_several_valid_sets_count_alike():
    labels = np.ones(40)
    sets = {"matched": Rows(np.ones(40), labels), "mismatched": Rows(np.zeros(20), np.ones(20))}
    assert resample("accuracy", {0: sets}, 0).mean == 0.5


def test_rows_of_words_are_resampled_as_a_whole():
    """Accuracy, macro-F1 and F1 of spans of the words of drawn rows; words that were not seen (-1) are wrong."""
    names = ("O", "B-X", "I-X")
    rows = np.repeat(np.arange(30), 4)
    labels = RANDOM.integers(0, 3, 120)
    predictions = np.where(RANDOM.random(120) < 0.3, RANDOM.integers(-1, 3, 120), labels)
    counts = next(draw_counts(30, NUM_RESAMPLES, (5, 0)))[4].astype(int)
    drawn = np.concatenate([np.arange(4 * row, 4 * row + 4) for row in np.repeat(np.arange(30), counts)])
    new_rows = np.repeat(np.arange(30), 4)
    for metric in ("accuracy", "macro_f1", "span_f1"):
        found = resample(metric, {0: {"valid": Rows(predictions, labels, rows, names)}}, seed=5)
        assert found.measured == pytest.approx(
            [compute_score(metric, predictions, labels, names, rows)], abs=1e-6
        )
        expected = compute_score(metric, predictions[drawn], labels[drawn], names, new_rows)
        assert found.resampled[4, 0] == pytest.approx(expected, abs=1e-6)
