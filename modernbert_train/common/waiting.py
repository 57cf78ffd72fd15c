"""What the main thread waits for: training.distributed.watch reports a long wait, and ends one without end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime


@dataclass(eq=False)
class Wait:
    """Something that the main thread waits for."""

    # "data from worker 3 (process 4711)"; called when it is reported.
    what: Callable[[], str]
    # After how many seconds the wait ends the run.
    limit_seconds: float
    # The field of the recipe that sets this limit.
    limit_field: str
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    # So far, counted by the watch: while a process is stopped, its clock stands still.
    seconds: float = 0.0
    # Of `seconds`, when it was reported last.
    reported_seconds: float = 0.0

    def __str__(self) -> str:
        since = f"{self.since:%H:%M:%S} UTC"
        return f"has waited {self.seconds:,.0f} seconds, since {since}, for {self.what()}"


_waits: list[Wait] = []


@contextmanager
def waiting(what: Callable[[], str], limit_seconds: float, limit_field: str) -> Iterator[None]:
    """Tell the watch that the main thread may wait in this context.

    Args:
        what: Returns what it waits for.
        limit_seconds: After how many seconds the wait ends the run.
        limit_field: The field of the recipe that sets this limit.

    Yields:
        Nothing.
    """
    wait = Wait(what, limit_seconds, limit_field)
    _waits.append(wait)
    try:
        yield
    finally:
        _waits.remove(wait)


def current_wait() -> Wait | None:
    """Return the innermost wait of the main thread; None if it does not wait."""
    return next(iter(_waits[-1:]), None)
