"""Muon as defined in its blog post (https://kellerjordan.github.io/posts/muon), one matrix at a time in float64.

The Newton-Schulz iteration X <- aX + b(XX')X + c(XX')(XX')X keeps the singular vectors and maps each singular
value s to a s + b s^3 + c s^5, so it is computed here on the singular values. The size of the update is that of AdamW
(2502.16982, equation 4); the decay is 1 - weight_decay * (learning rate / peak learning rate).
"""

from dataclasses import dataclass

import numpy as np

A, B, C = 3.4445, -4.7750, 2.0315
NUM_ITERATIONS = 5


@dataclass
class Matrix:
    """A weight and its momentum."""

    weight: np.ndarray
    momentum: np.ndarray


def start(weight: np.ndarray) -> Matrix:
    """Return the state before the first step."""
    return Matrix(weight.astype(np.float64), np.zeros(weight.shape))


def orthogonalize(matrix: np.ndarray) -> np.ndarray:
    """Return the matrix with singular values near 1, between 0.7 and 1.2."""
    left, values, right = np.linalg.svd(matrix / np.linalg.norm(matrix), full_matrices=False)
    for _ in range(NUM_ITERATIONS):
        values = A * values + B * values**3 + C * values**5
    return left @ np.diag(values) @ right


def step(
    matrix: Matrix,
    gradient: np.ndarray,
    *,
    learning_rate: float,
    peak: float,
    momentum: float,
    weight_decay: float,
) -> None:
    """Update the matrix by one step, with Nesterov momentum."""
    matrix.momentum = momentum * matrix.momentum + (1 - momentum) * gradient
    ahead = momentum * matrix.momentum + (1 - momentum) * gradient
    update = 0.2 * np.sqrt(max(gradient.shape)) * orthogonalize(ahead)
    matrix.weight = matrix.weight * (1 - weight_decay * learning_rate / peak) - learning_rate * update
