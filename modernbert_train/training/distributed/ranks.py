"""What one rank does for all, so that a failure there is a failure everywhere, and nobody waits for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from composer.utils import dist

Result = TypeVar("Result")


def is_rank_zero() -> bool:
    """Whether this is the rank that speaks and writes for all."""
    return dist.get_global_rank() == 0


def on_rank_zero(function: Callable[[], Result]) -> Result:
    """Call `function` on rank 0; every rank returns what it returned there, or raises what it raised."""
    outcome: list[Any] = [None, None]
    if is_rank_zero():
        try:
            outcome[0] = function()
        except Exception as failure:
            outcome[1] = failure
    dist.broadcast_object_list(outcome, src=0)
    result, error = outcome
    if error is not None:
        raise error
    return result


def numbers(ranks: Iterable[int]) -> str:
    """Numbers of ranks for a message, runs of them as one: 0, 2-5."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
