"""No wait is without end; tests/faults has whole runs."""

import os
import threading
import time
from contextlib import ExitStack
from datetime import timedelta

import pytest
from torch.distributed import PrefixStore, TCPStore

from modernbert_train.common import processes
from modernbert_train.common.errors import OtherRankFailed
from modernbert_train.common.waiting import current_wait, waiting
from modernbert_train.training.distributed.messages import Failure, Messages
from modernbert_train.training.distributed.watch import Watch
from tests.helpers.spawned import free_port, start


@pytest.fixture
def stores():
    """Two ranks' connections to one store."""
    port = free_port()
    connect = [
        TCPStore(
            "127.0.0.1", port, is_master=rank == 0, timeout=timedelta(seconds=30), wait_for_workers=False
        )
        for rank in range(2)
    ]
    return [PrefixStore("test", store) for store in connect]


@pytest.fixture
def ranks(stores):
    pair = [Messages(store, rank, 2, poll_seconds=0.05) for rank, store in enumerate(stores)]
    for rank in pair:
        rank.start()
    yield pair
    for rank in reversed(pair):
        rank.close()


def within(seconds, is_true):
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_in(what: str, limit_seconds: float) -> None:
    with Watch(None, 0, 1, 30), waiting(lambda: what, limit_seconds, "data.stall_seconds"):
        threading.Event().wait()


def test_a_wait_ends_with_what_it_waited_for():
    done = start(wait_in, "data from its worker 3 (process 17)", 1.5).finish(60)
    assert done.returncode == 1
    *_, last = done.stdout.splitlines()
    assert last.startswith("error: rank 0 (")
    assert "seconds, since " in last
    assert "for data from its worker 3 (process 17): longer than data.stall_seconds allows; check" in last


def test_a_wait_in_time_changes_nothing():
    with Watch(None, 0, 1, 1.0):
        for _ in range(4):
            with waiting(lambda: "data", 1.0, "data.stall_seconds"):
                time.sleep(0.4)
    assert current_wait() is None


def test_all_ranks_hear_of_a_failure(ranks):
    heard = threading.Thread(
        target=lambda: within(5, lambda: ranks[0].failure) or ranks[0].close(well=False), daemon=True
    )
    heard.start()
    started = time.monotonic()
    ranks[1].fail(Failure("rank 1 (host): no room", 1))
    assert time.monotonic() - started < 4  # the other has heard it
    heard.join()
    assert ranks[0].failure == ("rank 1 (host): no room", 1)


def test_the_first_failure_counts(ranks):
    threads = [
        threading.Thread(target=rank.fail, args=[Failure(f"of {n}", n)]) for n, rank in enumerate(ranks)
    ]
    threads[0].start()
    within(5, lambda: ranks[1].failure)
    threads[1].start()
    for thread in threads:
        thread.join(5)
    assert ranks[1].failure == ("of 0", 0)


def test_a_rank_that_answers_is_not_silent(ranks):
    silence = ranks[0].silences[1]
    within(5, lambda: "(" in silence.who)
    silence.seconds = 100.0
    within(5, lambda: silence.seconds == 0.0)
    ranks[1].close()
    within(5, lambda: silence.is_over)
    silence.seconds = 100.0
    time.sleep(0.3)
    assert silence.seconds == 100.0


def test_warnings_reach_the_log_of_rank_0(ranks, caplog):
    ranks[1].warn("rank 1 (host) has waited 90 seconds")
    within(5, lambda: "rank 1 (host) has waited 90 seconds" in caplog.messages)


def test_an_error_that_follows_from_another_names_the_first(stores):
    """A connection that is closed is noticed before the reason is read."""
    other = Messages(stores[1], 1, 2, poll_seconds=0.05)
    other.start()
    with ExitStack() as stack:
        stack.enter_context(pytest.raises(OtherRankFailed, match=r"^rank 1 \(host\): no room$"))
        stack.enter_context(Watch(stores[0], 0, 2, 30))
        threading.Thread(target=other.fail, args=[Failure("rank 1 (host): no room", 1)]).start()
        within(5, lambda: other.failure or stores[0].check(["failure"]))
        raise RuntimeError("[../gloo] Connection closed by peer")


def fail_with_a_thread_that_never_ends() -> None:
    processes.EXIT_SECONDS = 0.5
    threading.Thread(target=threading.Event().wait).start()  # Python waits for it at exit
    processes.leave(7)


def test_a_failed_process_leaves_whatever_is_in_the_way():
    assert start(fail_with_a_thread_that_never_ends).finish(60).returncode == 7


def in_a_stopped_process() -> None:
    """Count only the time in which the process runs."""
    rank = os.getpid()
    with Watch(None, 0, 1, 10), waiting(lambda: "data", 3.0, "data.stall_seconds"):
        if os.fork() == 0:
            os.kill(rank, 19)
            time.sleep(5)
            os.kill(rank, 18)
            os._exit(0)
        time.sleep(5.5)


def test_a_process_that_was_stopped_has_not_waited():
    assert start(in_a_stopped_process).finish(60).returncode == 0
