"""Carrying out the runs of a sweep: each is a process of its own, `modernbert train ...`, so many at a time.

Nothing is scheduled here: for a cluster, `--list` prints the commands and `--launch` hands each to another launcher.
"""

from __future__ import annotations

import functools
import logging
import os
import shlex
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

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from modernbert_train.common.processes import SIGNALS, end_with_parent
from modernbert_train.schedule import build_schedule
from modernbert_train.sweep.definition import Run, Sweep
from modernbert_train.sweep.state import read_state, read_tokens

log = logging.getLogger(__name__)

LOG_FILE = "log.txt"  # in a run folder: what its processes print
PLACEHOLDERS = ("{command}", "{quoted_command}", "{arguments}")
_POLL_SECONDS = 0.5
_LISTENED = (*SIGNALS, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True)
class Outcome:
    """How the process of a run has ended."""

    run: Run
    status: int  # of the process: 0, or what it exited with
    seconds: float

    @property
    def log_file(self) -> Path:
        """Where its last words are."""
        return Path(self.run.recipe.run_folder) / LOG_FILE


@dataclass(frozen=True)
class _Started:
    run: Run
    process: subprocess.Popen[bytes]
    slot: int
    since: float


def arguments_of(sweep: Sweep, run: Run) -> list[str]:
    """What comes after `modernbert` for a run."""
    return ["train", str(sweep.base), *run.overrides]


def command_of(sweep: Sweep, run: Run) -> str:
    """The run as one line for a shell, by this very Python."""
    return shlex.join([sys.executable, "-m", "modernbert_train", *arguments_of(sweep, run)])


def fill_template(template: str, sweep: Sweep, run: Run) -> str:
    """A launcher's command for a run. ValueError if the template has no place for it."""
    if not any(placeholder in template for placeholder in PLACEHOLDERS):
        raise ValueError(
            f"--launch is {template!r}: it has no place for the run; write {', '.join(PLACEHOLDERS[:-1])} or "
            f"{PLACEHOLDERS[-1]} into it, such as 'srun --gres=gpu:1 {{command}}'"
        )
    command = command_of(sweep, run)
    filled = {
        "{command}": command,
        "{quoted_command}": shlex.quote(command),
        "{arguments}": shlex.join(arguments_of(sweep, run)),
        "{name}": run.recipe.name,
    }
    for placeholder, text in filled.items():
        template = template.replace(placeholder, text)
    return template


def launch(sweep: Sweep, parallel: int, template: str | None, on_end: Callable[[Outcome], None]) -> int:
    """Run what is not finished, `parallel` at a time; `on_end` hears of each. Returns the signal that ended it, or 0.

    A signal to end is passed on to the runs, which save and end; nothing more is started. A second one kills them.
    """
    waiting = deque(run for run in sweep.runs if not read_state(run).is_finished)
    running: list[_Started] = []
    devices = _visible_devices()
    total = sum(build_schedule(run.recipe).total_tokens for run in sweep.runs)
    with (
        _caught(running) as caught,
        logging_redirect_tqdm(),
        tqdm(total=total, unit=" tok", unit_scale=True, desc=sweep.name, disable=None) as bar,
    ):
        while running or (waiting and not caught):
            while waiting and not caught and len(running) < parallel:
                slot = min(set(range(parallel)) - {started.slot for started in running})
                running.append(_start(sweep, waiting.popleft(), slot, parallel, devices, template))
            time.sleep(_POLL_SECONDS)
            for started in [started for started in running if started.process.poll() is not None]:
                running.remove(started)
                on_end(Outcome(started.run, started.process.returncode, time.monotonic() - started.since))
            bar.update(max(0, sum(map(read_tokens, sweep.runs)) - bar.n))
    return caught[0] if caught else 0


def _start(
    sweep: Sweep, run: Run, slot: int, parallel: int, devices: list[str], template: str | None
) -> _Started:
    """Start a run with its share of the machine: threads of the CPU, and one of the GPUs if several run at once."""
    environment = dict(os.environ)
    if template is None and parallel > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // parallel)))
        if devices:
            environment["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
    line = command_of(sweep, run) if template is None else fill_template(template, sweep, run)
    folder = Path(run.recipe.run_folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOG_FILE).open("ab") as output:
        process = subprocess.Popen(
            line if template is not None else shlex.split(line),
            shell=template is not None,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # a signal is passed on by us, once, to all that the run has started
            # A run that outlived a killed sweep would collide with itself when the sweep is restarted.
            preexec_fn=functools.partial(end_with_parent, signal.SIGTERM)
            if sys.platform == "linux"
            else None,
        )
    log.info("started %s: see %s", run.name, folder / LOG_FILE)
    return _Started(run, process, slot, time.monotonic())


def _visible_devices() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]


@contextmanager
def _caught(running: list[_Started]) -> Iterator[list[int]]:
    """Signals that came meanwhile, each passed on to the process groups of what is running; the second as SIGKILL."""
    caught: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        for started in running:
            if started.process.poll() is None:
                os.killpg(started.process.pid, signal.SIGTERM if len(caught) == 1 else signal.SIGKILL)

    # What the caller ignores (nohup: SIGHUP) stays ignored.
    listened = [number for number in _LISTENED if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, pass_on) for number in listened}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
