"""Stopping on a signal: finish the step, save, and exit with the code that asks for a restart, or that of Ctrl-C.

Slurm sends SIGUSR1 before the end of a job if asked to (`--signal`), Kubernetes and torchrun send SIGTERM, and Ctrl-C
is SIGINT. It is enough that one rank receives a signal: the ranks exchange it at the end of each step, so that all stop
after the same step.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from composer import Callback, Logger, State
from composer.utils import dist
from torch.utils.data import DataLoader

from modernbert_train.common.processes import (
    INTERRUPTED_EXIT_CODE,
    REQUEUE_EXIT_CODE,
    SIGNALS,
    end_soon,
    end_with_parent,
    failed_exit_code,
    first_exit_code,
    is_rank,
)
from modernbert_train.training.callbacks.base import step_of
from modernbert_train.training.callbacks.checkpoints import SaveCheckpoints
from modernbert_train.training.distributed.ranks import is_rank_zero
from modernbert_train.training.run import Run

log = logging.getLogger(__name__)

# Signals within this time are one request: a scheduler signals all processes of a job, and the launcher among them
# forwards the signal to its ranks.
SAME_REQUEST_SECONDS = 5.0
# The same for Ctrl-C, which a launcher passes on at once and a user presses again.
SAME_CTRL_C_SECONDS = 0.5
_STOP_SIGNALS = (*SIGNALS, signal.SIGINT)
# Exit codes that a stop can ask for, the strongest last. Ctrl-C reaches a rank together with the SIGTERM by which its
# launcher passes it on, in any order.
_STRENGTH = (0, REQUEUE_EXIT_CODE, INTERRUPTED_EXIT_CODE)


class Preempted(Exception):
    """A signal asked the run to stop, and it has saved; the same command resumes it."""

    def __init__(self, message: str = "", exit_code: int = REQUEUE_EXIT_CODE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class StopSignals:
    """A context in which SIGTERM, SIGUSR1 and SIGINT are recorded instead of ending the process.

    Before the first step there is nothing to save, so a signal ends the process at once; so does a second signal. Both
    leave the last checkpoint intact.

    A thread waits for the signals: Python calls handlers in the main thread only, which may be waiting in a collective
    operation for a rank that has failed.
    """

    def __init__(self) -> None:
        self.received: str | None = None  # name of the signal
        self.exit_code = 0  # that the signal asks for
        self.training = False  # whether a step has begun
        self.stopped_after: int | None = None  # number of steps, if a signal has stopped the run
        self._received_at = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        self._pipe, write_end = os.pipe()
        os.set_blocking(write_end, False)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        # The interpreter writes the number of every signal that has a handler here.
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        self._previous = {number: signal.signal(number, lambda *_: None) for number in _STOP_SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Restore the handlers, or ignore signals if preempted: launchers signal the other ranks once one has ended."""
        for number, handler in self._previous.items():
            ignored = kind is Preempted and number in SIGNALS
            signal.signal(number, signal.SIG_IGN if ignored else handler)
        write_end = signal.set_wakeup_fd(-1)
        os.write(write_end, bytes(1))
        self._listener.join()
        os.close(write_end)
        os.close(self._pipe)

    def _listen(self) -> None:
        while True:
            for number in os.read(self._pipe, 64):
                if number == 0:
                    return
                if number in _STOP_SIGNALS:
                    self._receive(number)

    def _receive(self, number: int) -> None:
        is_ctrl_c = number == signal.SIGINT
        if self.stopped_after is not None and not is_ctrl_c:
            return  # a rank that has saved and ended, upon which the launcher ends the others
        if (code := failed_exit_code()) is not None and not is_ctrl_c:
            end_soon(code)
            return
        name = signal.Signals(number).name
        exit_code = INTERRUPTED_EXIT_CODE if is_ctrl_c else REQUEUE_EXIT_CODE
        pressed_again = is_ctrl_c and self.exit_code == INTERRUPTED_EXIT_CODE
        same_seconds = SAME_CTRL_C_SECONDS if pressed_again else SAME_REQUEST_SECONDS
        is_same = time.monotonic() - self._received_at <= same_seconds
        if self.training and (self.received is None or (is_same and _is_stronger(exit_code, self.exit_code))):
            self._received_at = time.monotonic()
            self.exit_code = exit_code
            self.received = name
            if is_ctrl_c and is_rank_zero():
                os.write(2, b"Ctrl-C: saving after this step; press it again to end at once\n")
        elif self.received is None or not is_same:
            what = "before the first step" if self.received is None else "again"
            os.write(2, f"{name} {what}: ended at once; the last checkpoint is intact\n".encode())
            os._exit(first_exit_code(exit_code))


def _is_stronger(exit_code: int, other: int) -> bool:
    return _STRENGTH.index(exit_code) > _STRENGTH.index(other)


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
        asked = state.device.tensor_to_device(torch.tensor([_STRENGTH.index(self._signals.exit_code)]))
        dist.all_reduce(asked, reduce_operation="MAX")
        step = step_of(state)
        if not asked.item() or step == self._total_steps:
            return
        self._signals.exit_code = _STRENGTH[int(asked.item())]
        if self._signals.received is not None:
            log.warning("%s: stopping after step %d", self._signals.received, step)
        self._save.save(state)
        self._signals.stopped_after = step
        state.stop_training()


def shield_workers(loader: DataLoader) -> None:
    """Make the loader's workers ignore the signals: their rank needs them to finish its step."""
    loader.worker_init_fn = functools.partial(_start_shielded, loader.worker_init_fn)


def _start_shielded(start: Callable[[int], None] | None, worker_id: int) -> None:
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if start is not None:
        start(worker_id)


def end_with_launcher() -> None:
    """Request SIGTERM when the launcher dies: otherwise ranks keep training after `composer` has been killed."""
    if is_rank():
        end_with_parent(signal.SIGTERM)
