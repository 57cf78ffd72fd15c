"""Work that one rank does for all, so that an error of that rank is an error on all ranks and none waits forever."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from composer.utils import dist

Result = TypeVar("Result")


def is_rank_zero() -> bool:
    """Check whether this is the rank that prints and writes for all."""
    return dist.get_global_rank() == 0


def on_rank_zero(function: Callable[[], Result]) -> Result:
    """Call `function` on rank 0, and return its result or raise its exception on every rank. Collective."""
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
    """Format ranks for a message, with consecutive ones as a range: `0, 2-5`."""
    ranges: list[list[int]] = []
    for rank in sorted(ranks):
        if ranges and rank == ranges[-1][1] + 1:
            ranges[-1][1] = rank
        else:
            ranges.append([rank, rank])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
