"""Messages between the ranks beside training: signs of life, warnings, and why a rank has failed."""

from __future__ import annotations

import json
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from torch.distributed import Store

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
# How long a rank that fails waits until the others have heard the reason; rank 0 holds the store.
_HEARD_SECONDS = 6.0
_FAILURE, _NUM_HEARD, _WARNING = "failure", "ranks that have heard of it", "warning"
_OVER = "over"  # in place of a sign of life: the rank has ended well


class Failure(NamedTuple):
    """Why a rank has failed, and the exit code of all ranks."""

    text: str
    exit_code: int


@dataclass
class Silence:
    """How long another process has not answered."""

    who: str
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    seconds: float = 0.0  # counted by the watch
    is_over: bool = False

    def restart(self) -> None:
        """Note an answer."""
        self.since, self.seconds = datetime.now(UTC), 0.0


class Messages:
    """A thread that talks to a store on rank 0; only it waits if the store does not answer.

    Each rank checks the signs of life of the next one, so that the traffic grows with the number of ranks only.

    Args:
        store: Shared by all ranks, and used for nothing else.
        rank: Rank of this process.
        world_size: Number of ranks, at least 2.
        poll_seconds: Time between two looks at the store.
    """

    def __init__(self, store: Store, rank: int, world_size: int, poll_seconds: float = _POLL_SECONDS) -> None:
        self._store, self._rank, self._world_size = store, rank, world_size
        self._poll_seconds = min(_POLL_SECONDS, poll_seconds)
        self._next_rank = (rank + 1) % world_size
        self._next_sign = b""
        self._signs = 0
        self._shown_warning = b""
        self._is_closed = False
        self._actions: queue.SimpleQueue[tuple[Callable[[], None], threading.Event]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="messages", daemon=True)
        # The first failure of any rank.
        self.failure: Failure | None = None
        # Whether the store is gone, and with it rank 0.
        self.is_lost = False
        self.silences = (Silence("rank 0"), Silence(f"rank {self._next_rank}"))

    def start(self) -> None:
        """Begin to talk."""
        self._thread.start()

    def warn(self, text: str) -> None:
        """Log a warning, also on rank 0, whose log is the one that people read."""
        log.warning("%s", text)
        if self._rank != 0:
            self._actions.put((lambda: self._store.set(_WARNING, text), threading.Event()))

    def fail(self, failure: Failure) -> None:
        """Tell all ranks why this one fails, and wait until they have heard it."""
        self._end_with(lambda: self._tell(failure))

    def look_for_failure(self) -> Failure | None:
        """Return why a rank has failed; a rank says so before it closes its connections."""
        self._do(self._read_failure)
        return self.failure

    def close(self, *, well: bool = True) -> None:
        """Stop to talk, at the end of a good run or because another rank has failed."""
        self._end_with(self._end_well if well else self._hear)

    def _end_with(self, action: Callable[[], None]) -> None:
        """Have the thread do something and end: if it is in a call of torch while Python ends, the process aborts."""

        def act_and_end() -> None:
            self._is_closed = True
            action()

        self._do(act_and_end)
        self._thread.join(_POLL_SECONDS)

    def _do(self, action: Callable[[], None]) -> None:
        """Have the thread do something, and wait for it."""
        done, deadline = threading.Event(), time.monotonic() + _HEARD_SECONDS
        self._actions.put((action, done))
        while self._thread.is_alive() and time.monotonic() < deadline:
            if done.wait(0.1):
                return

    def _run(self) -> None:
        try:
            while not self._is_closed:
                self._exchange()
                self._act()
        except RuntimeError:  # torch's errors of a connection
            self.is_lost = True

    def _act(self) -> None:
        try:
            action, done = self._actions.get(timeout=self._poll_seconds)
        except queue.Empty:
            return
        action()
        done.set()

    def _exchange(self) -> None:
        self._signs += 1
        self._store.set(_sign_of(self._rank), f"{socket.gethostname()} {self._signs}")
        self._read_failure()
        of_store, of_next_rank = self.silences
        of_store.restart()
        sign = self._read(_sign_of(self._next_rank))
        if sign is not None and sign != self._next_sign:
            self._next_sign = sign
            of_next_rank.restart()
            of_next_rank.is_over = sign == _OVER.encode()
            of_next_rank.who = f"rank {self._next_rank} ({sign.decode().split()[0]})"
        warning = self._read(_WARNING) if self._rank == 0 else None
        if warning is not None and warning != self._shown_warning:
            self._shown_warning = warning
            log.warning("%s", warning.decode())

    def _read(self, key: str) -> bytes | None:
        return self._store.get(key) if self._store.check([key]) else None

    def _read_failure(self) -> None:
        if self.failure is None and (text := self._read(_FAILURE)) is not None:
            self.failure = Failure(*json.loads(text))

    def _tell(self, failure: Failure) -> None:
        told = json.dumps(failure)
        is_first = self._store.compare_set(_FAILURE, "", told).decode() == told
        self._store.add(_NUM_HEARD, 1)
        deadline = time.monotonic() + _HEARD_SECONDS
        while (is_first or self._rank == 0) and time.monotonic() < deadline:
            if self._store.add(_NUM_HEARD, 0) >= self._world_size:
                break
            time.sleep(0.05)

    def _hear(self) -> None:
        self._store.add(_NUM_HEARD, 1)

    def _end_well(self) -> None:
        self._store.set(_sign_of(self._rank), _OVER)


def _sign_of(rank: int) -> str:
    return f"sign of rank {rank}"
