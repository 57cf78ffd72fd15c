"""What the callbacks share: the count of steps, and the base class of everything that is measured."""

from __future__ import annotations

from typing import Any

from composer import Callback, State


def step_of(state: State) -> int:
    """Return the number of finished steps: at the start of a step its index, at its end the index of the next."""
    return int(state.timestamp.batch)


class Metric(Callback):
    """A callback that measures something.

    To add a metric, derive a class from this one and add it to the list in `train.build_callbacks`: `MetricsLogger`
    writes what `record` returns to metrics.jsonl and to the loggers.
    """

    # Keys of the record that go to metrics.jsonl only: text, and numbers that mean nothing as a curve.
    not_scalars: frozenset[str] = frozenset()

    def record(self, state: State) -> dict[str, Any]:
        """Return the values of a logged step by key; None for one that is not known.

        Called on all ranks at the end of each logged step, so it may use collectives. Loggers get a number as
        `train/KEY`, and the numbers of a dict as `KEY/NAME`.
        """
        raise NotImplementedError
