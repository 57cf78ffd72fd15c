"""An end to every wait of a rank, with the cause as the last line of every rank.

The main thread of a rank may wait for data, for a file or for other ranks, in calls that nothing interrupts. A clock in
another thread reports a long wait, and ends the process when a wait exceeds its limit or another rank does not answer.

A rank that fails tells the others the reason before it exits, and they end with the same reason and exit code: they may
be waiting for it in a collective operation, which gloo and NCCL notice late and without the reason.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from types import TracebackType

from torch.distributed import Store

from modernbert_train.common.errors import FAILED, OtherRankFailed, error_lines, explain, is_lost_rank
from modernbert_train.common.processes import KILLED_EXIT_CODE, end_at_once, first_exit_code
from modernbert_train.common.text import one_line
from modernbert_train.common.waiting import Wait, current_wait
from modernbert_train.training.callbacks.preemption import Preempted
from modernbert_train.training.distributed.messages import Failure, Messages

log = logging.getLogger(__name__)

_TICK_SECONDS = 1.0
# A wait is reported after this part of its limit, and then each time it has doubled.
_REPORTED_PART = 0.1
# How long the main thread may take to meet an error of its own after another rank has failed: it may be the same one.
_GRACE_SECONDS = 2.0
# How long this rank may go on after the end of rank 0, which all ranks reach at about the same time in a good run.
_WITHOUT_STORE_SECONDS = 30.0


class Watch:
    """A context in which no wait of the main thread lasts for ever.

    Args:
        store: Shared by all ranks, and used for nothing else; None: this is the only rank.
        rank: Rank of this process.
        world_size: Number of ranks.
        limit_seconds: How long another rank may not answer (training.rank_timeout_seconds).
    """

    def __init__(self, store: Store | None, rank: int, world_size: int, limit_seconds: float) -> None:
        self._limit_seconds = limit_seconds
        self._tick_seconds = min(_TICK_SECONDS, limit_seconds / 10)
        self._name = f"rank {rank} ({socket.gethostname()})"
        self._messages = (
            None if store is None else Messages(store, rank, world_size, poll_seconds=self._tick_seconds)
        )
        self._closed = threading.Event()
        # Taken by the thread that says why this process ends: only one does.
        self._last_word = threading.Lock()
        self._clock = threading.Thread(target=self._run, name="watch", daemon=True)
        # Seconds since another rank has failed, and since rank 0 is gone.
        self._failed_seconds = self._lost_seconds = 0.0

    def __enter__(self) -> Watch:
        if self._messages is not None:
            self._messages.start()
        self._clock.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching; after an error, tell the other ranks.

        Raises:
            OtherRankFailed: The error only follows from a failure of another rank.
        """
        self._last_word.acquire()
        self._closed.set()
        messages = self._messages
        if messages is None:
            return
        if not isinstance(error, Exception) or isinstance(error, Preempted):
            messages.close()
        elif is_lost_rank(error) and (failure := messages.look_for_failure()) is not None:
            messages.close(well=False)
            raise OtherRankFailed(*failure) from error
        else:
            explained = explain(error)
            text = explained.text if explained else f"{type(error).__name__}: {one_line(error)}; see its log"
            messages.fail(Failure(f"{self._name}: {text}", explained.exit_code if explained else FAILED))

    def _run(self) -> None:
        """Count the seconds of all waits, tick by tick: a process that was stopped has not waited."""
        last = time.monotonic()
        while not self._closed.wait(self._tick_seconds):
            now = time.monotonic()
            seconds, last = min(now - last, 2 * self._tick_seconds), now
            if (wait := current_wait()) is not None:
                self._look_at_wait(wait, seconds)
            if self._messages is not None:
                self._look_at_ranks(self._messages, seconds)

    def _look_at_wait(self, wait: Wait, seconds: float) -> None:
        wait.seconds += seconds
        if wait.seconds >= wait.limit_seconds:
            self._end(
                f"{self._name} {wait}: longer than {wait.limit_field} allows; check the storage and this machine, "
                "then run the same command again",
                FAILED,
            )
        elif wait.seconds >= max(wait.limit_seconds * _REPORTED_PART, 2 * wait.reported_seconds):
            wait.reported_seconds = wait.seconds
            text = f"{self._name} {wait}; the run ends after {wait.limit_seconds:g} ({wait.limit_field})"
            if self._messages is None:
                log.warning("%s", text)
            else:
                self._messages.warn(text)

    def _look_at_ranks(self, messages: Messages, seconds: float) -> None:
        if messages.failure is not None:
            self._failed_seconds += seconds
            if self._failed_seconds >= _GRACE_SECONDS:
                self._end(*messages.failure, of_other_rank=True)
        elif messages.is_lost:
            self._lost_seconds += seconds
            if self._lost_seconds >= _WITHOUT_STORE_SECONDS:
                self._end(
                    "rank 0 has ended, which ends this one; see its log for the cause", KILLED_EXIT_CODE
                )
        else:
            for silence in messages.silences:
                silence.seconds += seconds
                if silence.seconds >= self._limit_seconds and not silence.is_over:
                    self._end(
                        f"{silence.who} has not answered for {silence.seconds:,.0f} seconds, since "
                        f"{silence.since:%H:%M:%S} UTC: longer than training.rank_timeout_seconds allows; it is "
                        "stopped, or its machine is gone; check that machine, then run the same command again",
                        KILLED_EXIT_CODE,
                    )

    def _end(self, text: str, exit_code: int, of_other_rank: bool = False) -> None:
        """End this process, unless the main thread has come to an error itself."""
        if not self._last_word.acquire(blocking=False):
            return
        os.write(2, error_lines(text).encode())  # not by sys.stderr, which the main thread may hold
        if self._messages is not None:
            if of_other_rank:
                self._messages.close(well=False)
            else:
                self._messages.fail(Failure(text, exit_code))
        end_at_once(first_exit_code(exit_code))
