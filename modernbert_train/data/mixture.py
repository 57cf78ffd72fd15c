"""Shares of the tokens from the mixture of a recipe. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

from modernbert_train.config import MixtureConfig

# Digits of a computed share: the last bits of a power differ between machines, but the plan must not.
_DIGITS = 12


def resolve_shares(mixture: MixtureConfig, tokens: Mapping[str, int]) -> dict[str, float]:
    """Return the share of each source in the content tokens.

    Epochs e over sources of n tokens give shares proportional to e n. A temperature t gives shares proportional to n^t
    (t = 0.3 in XLM-R, 1911.02116, section 3.1; 0.7, 0.5 and 0.3 by phase in mmBERT, 2509.06888).

    Args:
        mixture: A valid mixture.
        tokens: Source -> content tokens of its training split.

    Returns:
        Source -> share; the shares add up to 1.
    """
    if mixture.shares:
        return dict(mixture.shares)
    if mixture.epochs:
        return _scaled({source: epochs * tokens[source] for source, epochs in mixture.epochs.items()})
    assert mixture.temperature is not None
    chosen = tokens if mixture.sources is None else mixture.sources
    return _scaled({source: float(tokens[source]) ** mixture.temperature for source in chosen})


def _scaled(weights: Mapping[str, float]) -> dict[str, float]:
    total = math.fsum(weights.values())
    return {source: round(weight / total, _DIGITS) for source, weight in weights.items()}
