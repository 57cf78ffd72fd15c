"""What a task yields without any language model: a line below which a score means nothing.

- `majority`: the most frequent label of train (its mean in a regression).
- `bag of words`: TF-IDF of words and pairs of words, then logistic regression (ridge regression for numbers).
- `TF-IDF cosine`, for pairs of texts: how similar the texts are; by itself in a regression, where a number is to be
  ordered, else with logistic regression on it.

Nothing is tuned. scikit-learn comes with the extra `evaluation`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modernbert_train.common.extras import require_extra
from modernbert_train.tasks.leaks import Texts

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

MAJORITY, BAG_OF_WORDS, COSINE = "majority", "bag of words", "TF-IDF cosine"
BASELINES = (MAJORITY, BAG_OF_WORDS, COSINE)

Labels = npt.NDArray[Any]


def predict(
    texts: Sequence[Texts], labels: Labels, valid: Mapping[str, Sequence[Texts]], *, is_regression: bool
) -> dict[str, dict[str, Labels]]:
    """Fit every baseline that suits a task, and predict the labels of its valid sets.

    Args:
        texts: The texts of each row of train.
        labels: Their class numbers, or numbers.
        valid: Valid set -> the texts of each row.
        is_regression: Whether the labels are numbers.

    Returns:
        Baseline -> valid set -> predictions, of the type of the labels.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    require_extra("evaluation", "scikit-learn")
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge

    joined = {name: [" ".join(row) for row in rows] for name, rows in valid.items()}
    found = {MAJORITY: {name: _constant(labels, len(rows), is_regression) for name, rows in valid.items()}}
    if len(np.unique(labels)) < 2:
        return found  # nothing to fit
    # Words of one character count too, and so do signs of code and of languages without spaces.
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")
    features = vectorizer.fit_transform([" ".join(row) for row in texts])
    model = Ridge(1.0) if is_regression else LogisticRegression(C=3.0, max_iter=1_000)
    model.fit(features, labels)
    found[BAG_OF_WORDS] = {name: model.predict(vectorizer.transform(rows)) for name, rows in joined.items()}
    if len(texts[0]) == 2:
        cosines = {name: _cosines(vectorizer, rows) for name, rows in valid.items()}
        if not is_regression:
            logistic = LogisticRegression(max_iter=1_000).fit(_cosines(vectorizer, texts)[:, None], labels)
            cosines = {name: logistic.predict(values[:, None]) for name, values in cosines.items()}
        found[COSINE] = cosines
    return found


def _constant(labels: Labels, num_rows: int, is_regression: bool) -> Labels:
    if is_regression:
        return np.full(num_rows, labels.mean())
    classes, counts = np.unique(labels, return_counts=True)
    return np.full(num_rows, classes[counts.argmax()])


def _cosines(vectorizer: TfidfVectorizer, rows: Sequence[Texts]) -> Labels:
    """Return the cosine of both texts of each row; the vectors of TF-IDF have length 1."""
    left, right = (vectorizer.transform([row[place] for row in rows]) for place in (0, 1))
    return np.asarray(left.multiply(right).sum(axis=1)).ravel()
