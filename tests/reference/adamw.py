"""AdamW (Loshchilov and Hutter, 1711.05101, algorithm 2), one tensor at a time in float64.

Its schedule multiplier is learning rate / peak learning rate: the decay is 1 - weight_decay * multiplier.
"""

from dataclasses import dataclass

import numpy as np


@dataclass
class Tensor:
    """A weight and its two moments."""

    weight: np.ndarray
    first: np.ndarray
    second: np.ndarray
    steps: int = 0


def start(weight: np.ndarray) -> Tensor:
    """Return the state before the first step."""
    return Tensor(weight.astype(np.float64), np.zeros(weight.shape), np.zeros(weight.shape))


def moments(
    tensor: Tensor, gradient: np.ndarray, betas: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Advance one step, and return the bias-corrected moments of g and of g^2."""
    tensor.steps += 1
    tensor.first = betas[0] * tensor.first + (1 - betas[0]) * gradient
    tensor.second = betas[1] * tensor.second + (1 - betas[1]) * gradient**2
    return tensor.first / (1 - betas[0] ** tensor.steps), tensor.second / (1 - betas[1] ** tensor.steps)


def step(
    tensor: Tensor,
    gradient: np.ndarray,
    *,
    learning_rate: float,
    peak: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """Update the tensor by one step."""
    mean, square = moments(tensor, gradient, betas)
    decayed = tensor.weight * (1 - weight_decay * learning_rate / peak)
    tensor.weight = decayed - learning_rate * mean / (np.sqrt(square) + eps)
