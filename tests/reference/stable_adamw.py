"""StableAdamW as defined in its papers, one tensor at a time in float64.

Adam's moments with bias correction (Kingma & Ba, 1412.6980, algorithm 1); the learning rate is divided by
RMS_t = sqrt(mean(g^2 / max(v, eps^2))) where that exceeds 1 (Wortsman et al., 2304.13013, algorithm 2); the decay
is 1 - weight_decay * (learning rate / peak learning rate).
"""

import numpy as np

from tests.reference.adamw import Tensor, moments


def step(
    tensor: Tensor,
    gradient: np.ndarray,
    *,
    learning_rate: float,
    peak: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> float:
    """Update the tensor by one step. Returns the factor by which the learning rate was divided (1: unchanged)."""
    mean, square = moments(tensor, gradient, betas)
    rms = np.sqrt(np.mean(gradient**2 / np.maximum(square, eps**2)))
    lowered = max(1.0, float(rms))
    rate = learning_rate / lowered
    tensor.weight = tensor.weight * (1 - weight_decay * rate / peak)
    tensor.weight = tensor.weight - rate * mean / (np.sqrt(square) + eps)
    return lowered
