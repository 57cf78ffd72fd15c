"""Ending in good order when a cluster takes its machine back: finish the step, save, and ask to be started again.

Slurm sends SIGUSR1 ahead of the end where it is asked to (`--signal`); Kubernetes and torchrun send SIGTERM. Not every
rank need be told: those that were tell the others at the end of each step, so that all stop after the same one.
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
from modernbert_train.schedule import RunSchedule
from modernbert_train.training.callbacks.checkpoints import SaveCheckpoints
from modernbert_train.training.callbacks.schedule import step_of

log = logging.getLogger(__name__)


# A scheduler signals every process of a job, and a launcher among them hands on to its ranks what they have had.
SAME_REQUEST_SECONDS = 5.0


class Preempted(Exception):
    """The run was asked to end, and has saved; started again, it goes on."""


class StopSignals:
    """Listens for SIGTERM and SIGUSR1 while it is entered.

    Before the first step there is nothing to save, and a signal ends the process at once; so does a second one, when
    somebody is in a hurry. Both leave the last checkpoint as it was.
    """

    def __init__(self) -> None:
        self.received: str | None = None  # name of the signal
        self.training = False  # whether a step has begun
        self.stopped_after: int | None = None  # steps; the run has ended early, and saved
        self._at = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        self._previous = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Give the signals back; not so a preempted run: as soon as one rank has ended, launchers end the others."""
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_IGN if kind is Preempted else handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.received is None and self.training:
            self.received, self._at = name, time.monotonic()
        elif self.received is None or time.monotonic() - self._at > SAME_REQUEST_SECONDS:
            what = "before the first step" if self.received is None else "again"
            os.write(2, f"{name} {what}: ended at once; the last checkpoint stands\n".encode())
            os._exit(REQUEUE_EXIT_CODE)


class StopWhenAsked(Callback):
    """Ends the fit on all ranks after the same step, saved, as soon as one of them has been told to. Stands last.

    One number is reduced a step, where Composer itself reduces and reads the loss and the counts.
    """

    def __init__(self, plan: RunSchedule, signals: StopSignals, save: SaveCheckpoints) -> None:
        self._plan = plan
        self._signals = signals
        self._save = save

    def batch_start(self, state: State, logger: Logger) -> None:
        self._signals.training = True

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        asked = state.device.tensor_to_device(torch.tensor([int(self._signals.received is not None)]))
        dist.all_reduce(asked, reduce_operation="MAX")
        step = step_of(state)
        if not asked.item() or step == self._plan.total_steps:
            return
        if self._signals.received is not None:
            log.warning("%s: stopping after step %d", self._signals.received, step)
        self._save.save(state)
        self._signals.stopped_after = step
        state.stop_training()


def shield_workers(loader: DataLoader) -> None:
    """Let the loader's processes leave the signals to the rank they read for, which needs them to finish its step."""
    loader.worker_init_fn = functools.partial(_start_shielded, loader.worker_init_fn)


def _start_shielded(start: Callable[[int], None] | None, worker_id: int) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if start is not None:
        start(worker_id)


def end_with_launcher() -> None:
    """Ask for SIGTERM when the launcher dies: composer, killed, would leave its ranks training for nobody."""
    if "LOCAL_WORLD_SIZE" in os.environ:
        end_with_parent(signal.SIGTERM)
