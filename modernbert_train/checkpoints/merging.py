"""Merge the weights of several models, as pure functions. Models are iterated, so only one is in memory at a time.

mean    w_1 m_1 + w_2 m_2 + ..., where the w add up to 1
ties    base + the changes that the models agree on (Yadav et al., TIES-Merging, 2306.01708, algorithm 1)
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from modernbert_train.config.architecture import EMBEDDING, TIED_WEIGHT

Weights = dict[str, Tensor]


def mean(models: Iterable[Weights], weights: Sequence[float]) -> Weights:
    """Return the weighted mean of the models, summed in float64; `weights` are scaled to add up to 1."""
    total = math.fsum(weights)
    sums: Weights = {}
    for model, weight in zip(models, weights, strict=True):
        for name, value in _untied(model).items():
            part = value.double().mul_(weight / total)
            sums[name] = part if name not in sums else sums[name].add_(part)
    return _tied({name: value.float() for name, value in sums.items()})


def ties(base: Weights, models: Iterable[Weights], density: float) -> Weights:
    """Merge the changes that the models made to `base`.

    Trim: keep the largest of each model's changes, a share of `density`. Elect: the sign of a parameter is that of the
    sum of its kept changes. Merge: add the mean of the kept changes with that sign to the base (lambda = 1); a
    parameter without kept changes keeps its value.

    Returns:
        The merged weights.
    """
    base = _untied(base)
    # Sums and numbers of changes: [0] of the positive ones, [1] of the negative ones.
    sums = {name: torch.zeros(2, *value.shape) for name, value in base.items()}
    counts = {name: torch.zeros(2, *value.shape, dtype=torch.uint8) for name, value in base.items()}
    for model in models:
        changes = {name: value - base[name] for name, value in _untied(model).items()}
        least = trim_threshold(changes.values(), density)
        for name, change in changes.items():
            kept = change.where(change.abs() >= least, 0)
            for side, part in enumerate((kept.clamp(min=0), kept.clamp(max=0))):
                sums[name][side] += part
                counts[name][side] += part != 0
    return _tied({name: value + _elected_mean(sums[name], counts[name]) for name, value in base.items()})


def trim_threshold(changes: Iterable[Tensor], density: float) -> float:
    """Return the size of the smallest change among the largest `density` of all changes."""
    sizes = torch.cat([change.abs().flatten() for change in changes])
    num_kept = max(1, round(density * len(sizes)))
    return float(sizes.kthvalue(len(sizes) - num_kept + 1).values)


def _elected_mean(sums: Tensor, counts: Tensor) -> Tensor:
    is_above = sums[0] >= -sums[1]
    total, count = sums[1].where(~is_above, sums[0]), counts[1].where(~is_above, counts[0])
    return total / count.clamp(min=1)


def _untied(model: Weights) -> Weights:
    return {name: value for name, value in model.items() if name != TIED_WEIGHT}


def _tied(model: Weights) -> Weights:
    return {**model, TIED_WEIGHT: model[EMBEDDING]}
