"""From the mixture of a recipe to shares of the tokens. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

from modernbert_train.config import MixtureConfig

_DIGITS = 12  # of a computed share: a power's last bits differ between machines, the plan must not


def resolve_shares(mixture: MixtureConfig, tokens: Mapping[str, int]) -> dict[str, float]:
    """Source -> share of the content tokens, adding up to 1.

    Args:
        mixture: a valid one.
        tokens: source -> content tokens that its training split holds.

    Passes p over sources of n tokens make shares proportional to p n. A temperature t makes them proportional to n^t
    (t = 0.3 in XLM-R, 1911.02116, section 3.1; 0.7, 0.5 and 0.3 by phase in mmBERT, 2509.06888).

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
