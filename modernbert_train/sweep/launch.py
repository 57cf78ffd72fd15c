"""Runs the runs of a sweep, several at a time, each in a process of its own.

Nothing is scheduled here: on a cluster, `--launcher` starts each run with the cluster's command, and `--list` prints
the commands for its queue.
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
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from modernbert_train.common.processes import SIGNALS, end_with_parent
from modernbert_train.schedule import build_schedule
from modernbert_train.sweep.definition import Run, Sweep
from modernbert_train.sweep.state import read_state, read_tokens

log = logging.getLogger(__name__)

# In the run folder: the output of the run's processes.
LOG_FILE = "log.txt"
_POLL_SECONDS = 0.5
_HANDLED_SIGNALS = (*SIGNALS, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True)
class EndedRun:
    """A run whose process has ended."""

    run: Run
    exit_code: int
    seconds: float

    @property
    def failure(self) -> str:
        """The reason why an unfinished run counts as failed."""
        hint = (
            "" if self.exit_code else " before its last step; a launcher must wait for its run, unlike sbatch"
        )
        return f"exit code {self.exit_code}{hint}"

    @property
    def log_file(self) -> Path:
        """The output of the process."""
        return Path(self.run.recipe.run_folder) / LOG_FILE


@dataclass(frozen=True)
class _RunningRun:
    run: Run
    process: subprocess.Popen[bytes]
    # Index among the runs in parallel, which decides the GPU.
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


def train_command(sweep: Sweep, run: Run, launcher: list[str]) -> list[str]:
    """Return the command of a run: the launcher, then `-m modernbert_train train RECIPE key=value ...`."""
    return [*launcher, "-m", "modernbert_train", "train", str(sweep.base), *run.overrides]


def launch(sweep: Sweep, parallel: int, launcher: str | None, on_end: Callable[[EndedRun], None]) -> int:
    """Run all unfinished runs.

    The first signal is passed on to the runs, which save and end, and nothing more is started. A second one kills them.

    Args:
        sweep: The sweep.
        parallel: Number of runs at the same time.
        launcher: Command that starts each run; None for this Python.
        on_end: Called with each run that has ended.

    Returns:
        The number of the signal that stopped the sweep, or 0.
    """
    words = split_launcher(launcher)
    shares = _machine_shares(parallel) if launcher is None and parallel > 1 else [{}] * parallel
    waiting = deque(run for run in sweep.runs if not read_state(run).is_finished)
    running: list[_RunningRun] = []
    total = sum(build_schedule(run.recipe).total_tokens for run in sweep.runs)
    with (
        _signals_passed_on(running) as received,
        logging_redirect_tqdm(),
        tqdm(total=total, unit=" tok", unit_scale=True, desc=sweep.name, disable=None) as bar,
    ):
        while running or (waiting and not received):
            while waiting and not received and len(running) < parallel:
                slot = min(set(range(parallel)) - {other.slot for other in running})
                run = waiting.popleft()
                running.append(_start(run, train_command(sweep, run, words), slot, shares[slot]))
            time.sleep(_POLL_SECONDS)
            for ended in [other for other in running if other.process.poll() is not None]:
                running.remove(ended)
                on_end(EndedRun(ended.run, ended.process.returncode, time.monotonic() - ended.started_at))
            bar.update(max(0, sum(map(read_tokens, sweep.runs)) - bar.n))
    return received[0] if received else 0


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


def _start(run: Run, command: list[str], slot: int, environment: dict[str, str]) -> _RunningRun:
    folder = Path(run.recipe.run_folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOG_FILE).open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            # A process group of its own: a signal from the terminal reaches it once, through us.
            start_new_session=True,
            # A run that outlived a killed sweep would block its run folder when the sweep is restarted.
            preexec_fn=functools.partial(end_with_parent, signal.SIGTERM),
        )
    log.info("started %s, log: %s", run.name, folder / LOG_FILE)
    return _RunningRun(run, process, slot, time.monotonic())


@contextmanager
def _signals_passed_on(running: list[_RunningRun]) -> Iterator[list[int]]:
    """Pass signals on to the process groups of the running runs, the second one as SIGKILL; yield those received."""
    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for run in running:
            if run.process.poll() is None:
                os.killpg(run.process.pid, signal.SIGTERM if len(received) == 1 else signal.SIGKILL)

    # A signal that is ignored already (nohup: SIGHUP) stays ignored.
    handled = [number for number in _HANDLED_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, pass_on) for number in handled}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
