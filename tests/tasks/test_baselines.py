from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest

from modernbert_train.tasks.baselines import BAG_OF_WORDS, BASELINES, COSINE, MAJORITY, predict

RANDOM = np.random.default_rng(0)
WORDS = [f"w{number}" for number in range(40)]


def sentence(*extra):
    return " ".join([*RANDOM.choice(WORDS, 6), *extra])


def test_a_word_that_gives_the_class_away_is_found():
    labels = RANDOM.permutation([0] * 180 + [1] * 120)
    rows = [(sentence("good" if label else "bad"),) for label in labels]
    found = predict(rows[:200], labels[:200], {"a": rows[200:], "b": rows[:5]}, is_regression=False)
    assert list(found) == [MAJORITY, BAG_OF_WORDS]
    assert not found[MAJORITY]["a"].any()
    assert (found[BAG_OF_WORDS]["a"] == labels[200:]).mean() > 0.95
    assert len(found[BAG_OF_WORDS]["b"]) == 5


@pytest.mark.parametrize("is_regression", [True, False])
def test_similar_texts_are_found_by_their_cosine(is_regression):
    rows, shared = [], RANDOM.integers(0, 7, 200)
    for count in shared:
        words = RANDOM.permutation(WORDS)
        rows.append((" ".join(words[:6]), " ".join([*words[:count], *words[10 : 16 - count]])))
    labels = shared / 6 if is_regression else (shared > 3).astype(int)
    found = predict(rows[:150], labels[:150], {"valid": rows[150:]}, is_regression=is_regression)
    assert tuple(found) == BASELINES
    cosine, words, constant = (
        found[name]["valid"].astype(float) for name in (COSINE, BAG_OF_WORDS, MAJORITY)
    )
    truth = labels[150:].astype(float)
    assert np.corrcoef(cosine, truth)[0, 1] > 0.8
    assert np.corrcoef(words, truth)[0, 1] < 0.6
    assert len(set(constant)) == 1


def test_one_class_only_has_the_majority_alone():
    found = predict([("a",), ("b",)], np.array([1, 1]), {"valid": [("c",)]}, is_regression=False)
    assert {name: list(sets["valid"]) for name, sets in found.items()} == {MAJORITY: [1]}


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("modernbert_train.common.extras.version", version)
    with pytest.raises(
        ValueError, match="scikit-learn is not installed; it comes with the extra `evaluation`"
    ):
        predict([("a",)], np.array([0]), {}, is_regression=False)
