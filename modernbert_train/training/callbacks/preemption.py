"""Preemption: on a signal, finish the step, save, and exit with the code that asks for a restart.

Slurm sends SIGUSR1 before the end of a job if asked to (`--signal`); Kubernetes and torchrun send SIGTERM. It is enough
that one rank receives a signal: the ranks exchange it at the end of each step, so that all stop after the same step.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from composer import Callback, Logger, State
from composer.utils import dist
from torch.utils.data import DataLoader

from modernbert_train.common.processes import REQUEUE_EXIT_CODE, SIGNALS, end_with_parent
from modernbert_train.training.callbacks.base import step_of
from modernbert_train.training.callbacks.checkpoints import SaveCheckpoints
from modernbert_train.training.run import Run

log = logging.getLogger(__name__)

# Signals within this time are one request: a scheduler signals all processes of a job, and the launcher among them
# forwards the signal to its ranks.
SAME_REQUEST_SECONDS = 5.0


class Preempted(Exception):
    """A signal asked the run to stop, and it has saved; the same command resumes it."""


class StopSignals:
    """A context in which SIGTERM and SIGUSR1 are recorded instead of ending the process.

    Before the first step there is nothing to save, so a signal ends the process at once; so does a second signal. Both
    leave the last checkpoint intact.
    """

    def __init__(self) -> None:
        self.received: str | None = None  # name of the signal
        self.training = False  # whether a step has begun
        self.stopped_after: int | None = None  # number of steps, if a signal has stopped the run
        self._received_at = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        self._previous = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Restore the handlers, or ignore signals if preempted: launchers signal the other ranks once one has ended."""
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_IGN if kind is Preempted else handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.received is None and self.training:
            self.received, self._received_at = name, time.monotonic()
        elif self.received is None or time.monotonic() - self._received_at > SAME_REQUEST_SECONDS:
            what = "before the first step" if self.received is None else "again"
            os.write(2, f"{name} {what}: ended at once; the last checkpoint is intact\n".encode())
            os._exit(REQUEUE_EXIT_CODE)


class StopWhenAsked(Callback):
    """Saves and ends training on all ranks after the same step, once one rank has received a signal. Comes last.

    This costs a reduction of one number per step, at a point where Composer synchronizes anyway, for the loss.
    """

    def __init__(self, run: Run, signals: StopSignals, save: SaveCheckpoints) -> None:
        self._total_steps = run.schedule.total_steps
        self._signals = signals
        self._save = save

    def batch_start(self, state: State, logger: Logger) -> None:
        self._signals.training = True

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        asked = state.device.tensor_to_device(torch.tensor([int(self._signals.received is not None)]))
        dist.all_reduce(asked, reduce_operation="MAX")
        step = step_of(state)
        if not asked.item() or step == self._total_steps:
            return
        if self._signals.received is not None:
            log.warning("%s: stopping after step %d", self._signals.received, step)
        self._save.save(state)
        self._signals.stopped_after = step
        state.stop_training()


def shield_workers(loader: DataLoader) -> None:
    """Make the loader's workers ignore the signals: their rank needs them to finish its step."""
    loader.worker_init_fn = functools.partial(_start_shielded, loader.worker_init_fn)


def _start_shielded(start: Callable[[int], None] | None, worker_id: int) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if start is not None:
        start(worker_id)


def end_with_launcher() -> None:
    """Request SIGTERM when the launcher dies: otherwise ranks keep training after `composer` has been killed."""
    if "LOCAL_WORLD_SIZE" in os.environ:
        end_with_parent(signal.SIGTERM)
