"""How a process handles signals of a scheduler; test_resume.py has whole runs that a signal stops."""

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest
from torch.utils.data import DataLoader

from modernbert_train.common.processes import (
    EXIT_CODE_FILE,
    INTERRUPTED_EXIT_CODE,
    REQUEUE_EXIT_CODE,
    SIGNALS,
    first_exit_code,
)
from modernbert_train.training.callbacks import preemption
from modernbert_train.training.callbacks.preemption import Preempted, StopSignals, shield_workers
from tests.helpers.spawned import start


def listen(training: bool, numbers: list[int], same: float) -> None:
    preemption.SAME_REQUEST_SECONDS = preemption.SAME_CTRL_C_SECONDS = same
    with StopSignals() as signals:
        signals.training = training
        for number in numbers:
            os.kill(os.getpid(), number)
    print("went on:", signals.received)


def ends(training: bool, numbers: list[int], same: float = 5.0) -> tuple[int, str]:
    """Return the exit code of a process that gets these signals, and its output."""
    done = start(listen, training, numbers, same).finish()
    return done.returncode, done.stdout


@pytest.mark.parametrize("number", [*SIGNALS, signal.SIGINT])
def test_the_first_signal_is_kept_for_the_end_of_the_step(number):
    before = signal.getsignal(number)
    with StopSignals() as signals:
        signals.training = True
        assert signals.received is None
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # passed on by a launcher
    assert signals.received == signal.Signals(number).name
    assert signals.exit_code == (REQUEUE_EXIT_CODE if number in SIGNALS else INTERRUPTED_EXIT_CODE)
    assert signal.getsignal(number) is before


def test_a_preempted_process_ignores_further_signals():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        with pytest.raises(Preempted), StopSignals():
            raise Preempted
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, REQUEUE_EXIT_CODE), (signal.SIGINT, INTERRUPTED_EXIT_CODE)]
)
def test_before_the_first_step_it_ends_at_once(number, code):
    expected = f"{number.name} before the first step: ended at once; the last checkpoint is intact\n"
    assert ends(training=False, numbers=[number]) == (code, expected)


def test_a_second_signal_ends_at_once():
    assert ends(training=True, numbers=[signal.SIGUSR1, signal.SIGTERM], same=-1.0) == (
        REQUEUE_EXIT_CODE,
        "SIGTERM again: ended at once; the last checkpoint is intact\n",
    )
    assert ends(training=True, numbers=[signal.SIGINT, signal.SIGINT], same=-1.0) == (
        INTERRUPTED_EXIT_CODE,
        "Ctrl-C: saving after this step; press it again to end at once\n"
        "SIGINT again: ended at once; the last checkpoint is intact\n",
    )
    assert ends(training=True, numbers=[signal.SIGUSR1, signal.SIGTERM]) == (0, "went on: SIGUSR1\n")


@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)])
def test_a_launcher_passes_ctrl_c_on_as_sigterm(numbers):
    with StopSignals() as signals:
        signals.training = True
        for number in numbers:
            os.kill(os.getpid(), number)
    assert (signals.received, signals.exit_code) == ("SIGINT", INTERRUPTED_EXIT_CODE)


def wait_for_ever() -> None:
    with StopSignals() as signals:
        signals.training = True
        lock = threading.Lock()
        lock.acquire()
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        lock.acquire()


def test_a_rank_whose_main_thread_waits_ends_with_the_code_of_the_rank_that_failed(tmp_path, monkeypatch):
    """The lock stands for a collective operation that the failed rank will never join."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv(EXIT_CODE_FILE, str(tmp_path / "code"))
    assert first_exit_code(2) == 2
    environment = {"LOCAL_WORLD_SIZE": "2", EXIT_CODE_FILE: str(tmp_path / "code")}
    assert start(wait_for_ever, **environment).finish(60).returncode == 2


def test_workers_outlive_the_signals_of_a_job():
    loader = DataLoader(
        range(6), num_workers=1, prefetch_factor=1, worker_init_fn=lambda number: time.sleep(0)
    )
    shield_workers(loader)
    batches = iter(loader)
    assert next(batches) == 0
    (worker,) = batches._workers
    for number in (*SIGNALS, signal.SIGINT):
        os.kill(worker.pid, number)
    assert [int(batch) for batch in batches] == [1, 2, 3, 4, 5]


def start_rank_and_wait() -> None:
    """Stand for `composer`, which may end without signalling its ranks."""
    rank = os.fork()
    if rank:
        os.waitpid(rank, 0)
        return
    os.environ["LOCAL_WORLD_SIZE"] = "1"
    preemption.end_with_launcher()
    with StopSignals() as signals:
        signals.training = True
        print("ready", flush=True)
        while signals.received is None:
            time.sleep(0.01)
    print(signals.received, flush=True)
    os._exit(0)


def test_a_rank_notices_when_its_launcher_has_died():
    launcher = start(start_rank_and_wait)
    try:
        wait_until(lambda: launcher.output == "ready\n")
        os.kill(launcher.pid, signal.SIGKILL)
        assert launcher.finish().returncode == -signal.SIGKILL
        wait_until(lambda: launcher.output == "ready\nSIGTERM\n")
    finally:
        launcher.kill()


def wait_until(is_true: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_code_is_that_of_a_process_killed_by_sigusr1():
    assert preemption.REQUEUE_EXIT_CODE == 128 + signal.SIGUSR1
