"""Runs jobs, which are commands of this program, several at a time, each in a process of its own.

Nothing is scheduled here: on a cluster, a launcher starts each job with the cluster's command, or its queue takes the
commands of all jobs.
"""

from __future__ import annotations

import functools
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from modernbert_train.common.processes import (
    INTERRUPTED_EXIT_CODE,
    REQUEUE_EXIT_CODE,
    SIGNALS,
    end_with_parent,
)

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_HANDLED_SIGNALS = (*SIGNALS, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True)
class Job:
    """A command to run."""

    # In messages; no two jobs have the same.
    name: str
    # Returns those after `modernbert`; called when the job starts, since they may depend on the jobs before it.
    arguments: Callable[[], Sequence[str]]
    # The output of its processes; its folder is made.
    log_file: Path
    # Names of the jobs that must be finished before this one can start.
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class EndedJob:
    """A job whose process has ended, or that could not start."""

    job: Job
    # None: not started, since a job before it has failed.
    exit_code: int | None
    seconds: float

    @property
    def failure(self) -> str:
        """The reason why an unfinished job counts as failed."""
        if self.exit_code is None:
            return "no start, since a job that it builds on has failed"
        hint = "" if self.exit_code else " before its end; a launcher must wait for its job, unlike sbatch"
        return f"exit code {self.exit_code}{hint}"


@dataclass(frozen=True)
class _RunningJob:
    job: Job
    process: subprocess.Popen[bytes]
    # Index among the jobs in parallel, which decides the GPU.
    slot: int
    started_at: float


def split_launcher(launcher: str | None) -> list[str]:
    """Return the words of `--launcher`; without one, this Python.

    Raises:
        ValueError: The program does not exist.
    """
    if launcher is None:
        return [sys.executable]
    words = shlex.split(launcher)
    if not words or shutil.which(words[0]) is None:
        program = f"there is no program {words[0]}" if words else "it is empty"
        raise ValueError(f"--launcher is {launcher!r}: {program}; write a command such as 'composer -n 8'")
    return words


def command(launcher: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """Return the command of a job: the launcher, then `-m modernbert_train ARGUMENTS`."""
    return [*launcher, "-m", "modernbert_train", *arguments]


def launch(
    jobs: Sequence[Job],
    parallel: int,
    launcher: str | None,
    is_finished: Callable[[Job], bool],
    on_end: Callable[[EndedJob], None],
    bar: tqdm,
    progress: Callable[[], int],
) -> int:
    """Run all unfinished jobs.

    The first signal is passed on to the jobs, which save and end, and nothing more is started. A second one kills them.

    Args:
        jobs: The jobs, in the order of their starts.
        parallel: Number of jobs at the same time.
        launcher: Command that starts each job; None for this Python.
        is_finished: Whether a job has done its work.
        on_end: Called with each job that has ended, or cannot start.
        bar: A progress bar, open.
        progress: Returns how far all jobs together are, in the unit of the bar.

    Returns:
        The number of the signal that stopped the jobs, or 0.
    """
    words = split_launcher(launcher)
    shares = _machine_shares(parallel) if launcher is None and parallel > 1 else [{}] * parallel
    waiting = [job for job in jobs if not is_finished(job)]
    by_name = {job.name: job for job in jobs}
    running: list[_RunningJob] = []
    with _signals_passed_on(running) as received, logging_redirect_tqdm():
        while running or (waiting and not received):
            pending = {job.name for job in (*waiting, *(one.job for one in running))}
            for job in list(waiting):
                if received or len(running) >= parallel:
                    break
                if not pending.isdisjoint(job.after):
                    continue
                waiting.remove(job)
                if not all(is_finished(by_name[name]) for name in job.after):
                    pending.remove(job.name)
                    on_end(EndedJob(job, None, 0.0))
                    continue
                slot = min(set(range(parallel)) - {other.slot for other in running})
                running.append(_start(job, command(words, job.arguments()), slot, shares[slot]))
            if running:
                time.sleep(_POLL_SECONDS)
            for ended in [other for other in running if other.process.poll() is not None]:
                running.remove(ended)
                on_end(EndedJob(ended.job, ended.process.returncode, time.monotonic() - ended.started_at))
            bar.update(max(0, progress() - bar.n))
    return received[0] if received else 0


def run_in_process(
    jobs: Sequence[Job],
    run: Callable[[Sequence[str]], int],
    is_finished: Callable[[Job], bool],
    on_end: Callable[[EndedJob], None],
) -> int:
    """Run all unfinished jobs one after another in this process, which saves the start of a process for each.

    Args:
        jobs: The jobs; each stands after those that it builds on.
        run: Runs a command of this program and returns its exit code.
        is_finished: Whether a job has done its work.
        on_end: Called with each job that has ended, or cannot start.

    Returns:
        The number of the signal that stopped the jobs, or 0.
    """
    by_name = {job.name: job for job in jobs}
    for job in jobs:
        if is_finished(job):
            continue
        if not all(is_finished(by_name[name]) for name in job.after):
            on_end(EndedJob(job, None, 0.0))
            continue
        log.info("started %s, log: %s", job.name, job.log_file)
        started_at = time.monotonic()
        with _output_in(job.log_file):
            code = run(job.arguments())
        if code == INTERRUPTED_EXIT_CODE:
            return signal.SIGINT
        if code == REQUEUE_EXIT_CODE:
            return signal.SIGTERM
        on_end(EndedJob(job, code, time.monotonic() - started_at))
    return 0


@contextmanager
def _output_in(file: Path) -> Iterator[None]:
    """Append what this process prints and logs to a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handlers = [one for one in logging.getLogger().handlers if type(one) is logging.StreamHandler]
    with file.open("a", encoding="utf-8") as output, redirect_stdout(output), redirect_stderr(output):
        before = [(handler, handler.setStream(output)) for handler in handlers]
        try:
            yield
        finally:
            for handler, stream in before:
                if stream is not None:
                    handler.setStream(stream)


def _machine_shares(parallel: int) -> list[dict[str, str]]:
    """Return the environment variables of each slot: an equal share of the CPU threads, and one of the GPUs."""
    import torch  # only here: --dry-run, --list and --report answer at once

    threads = {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // parallel))}
    if "OMP_NUM_THREADS" in os.environ:
        threads = {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    return [
        threads | ({"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {})
        for slot in range(parallel)
    ]


def _start(job: Job, words: list[str], slot: int, environment: dict[str, str]) -> _RunningJob:
    job.log_file.parent.mkdir(parents=True, exist_ok=True)
    with job.log_file.open("ab") as output:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            # A process group of its own: a signal from the terminal reaches it once, through us.
            start_new_session=True,
            # A job that outlived this killed process would be in the way when it is started again.
            preexec_fn=functools.partial(end_with_parent, signal.SIGTERM),
        )
    log.info("started %s, log: %s", job.name, job.log_file)
    return _RunningJob(job, process, slot, time.monotonic())


@contextmanager
def _signals_passed_on(running: list[_RunningJob]) -> Iterator[list[int]]:
    """Pass signals on to the process groups of the running jobs, the second one as SIGKILL; yield those received."""
    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for one in running:
            if one.process.poll() is None:
                os.killpg(one.process.pid, signal.SIGTERM if len(received) == 1 else signal.SIGKILL)

    # A signal that is ignored already (nohup: SIGHUP) stays ignored.
    handled = [number for number in _HANDLED_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, pass_on) for number in handled}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stopped_exit_code(number: int) -> int:
    """Return the exit code of a command whose jobs a signal has stopped."""
    return REQUEUE_EXIT_CODE if number in SIGNALS else 128 + number


class Failures:
    """Reports the end of jobs, and collects those that failed."""

    def __init__(self, jobs: Sequence[Job], is_finished: Callable[[Job], bool]) -> None:
        self._jobs, self._is_finished = jobs, is_finished
        self.failed: list[EndedJob] = []

    def on_end(self, ended: EndedJob) -> None:
        """Log the end of a job; after a failure with the last lines of its output."""
        job = ended.job
        if self._is_finished(job):
            num_finished = sum(map(self._is_finished, self._jobs))
            minutes, seconds = divmod(round(ended.seconds), 60)
            duration = f"{minutes}:{seconds:02d}"
            log.info("finished %s in %s (%d of %d)", job.name, duration, num_finished, len(self._jobs))
            return
        self.failed.append(ended)
        log.error("FAILED: %s with %s", job.name, ended.failure)
        if ended.exit_code is not None:
            for line in job.log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-3:]:
                log.error("    %s", line)

    def summarize(self) -> None:
        """Log the failed jobs once more, with their logs."""
        for ended in self.failed:
            see = f"see {ended.job.log_file}" if ended.exit_code is not None else ended.failure
            log.error("FAILED: %s; %s", ended.job.name, see)
