"""Launchers as a user runs them, from the environment of this Python."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COMPOSER = Path(sys.executable).with_name("composer")
TORCHRUN = Path(sys.executable).with_name("torchrun")
LAUNCH = Path(__file__).parents[2] / "docker/launch.sh"  # composer that passes signals on to its ranks
TRAIN = ("-m", "modernbert_train", "train")


def launch(
    num_processes: int, *arguments: str | Path, seconds: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run `composer -n N -m modernbert_train ARGUMENTS`, standard error and output together.

    Raises subprocess.TimeoutExpired if it hangs.
    """
    command = [COMPOSER, "-n", num_processes, "-m", "modernbert_train", *arguments]
    return finish(start(command), seconds)


def start(command: Sequence[Any], **environment: str) -> subprocess.Popen[str]:
    """Start a launcher in a process group of its own."""
    path = f"{COMPOSER.parent}:{os.environ['PATH']}"
    return subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PATH": path, **environment},
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], seconds: float = 240) -> subprocess.CompletedProcess[str]:
    """Wait for exit code and output; after `seconds`, kill it with its ranks and raise subprocess.TimeoutExpired."""
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the launcher and its ranks
        process.wait()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, output)


def wait_for_steps(run: Path, num_steps: int, process: Any, seconds: float = 240) -> None:
    """Wait until `num_steps` steps are logged by a process, which has `poll()`."""
    deadline = time.monotonic() + seconds
    while not (run / "metrics.jsonl").exists() or len(read_steps(run)) < num_steps:
        assert process.poll() is None, f"it has ended with {process.poll()}"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def read_steps(run: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl that are training steps."""
    *lines, _ = (run / "metrics.jsonl").read_text(encoding="utf-8").split("\n")  # complete lines
    return [line for line in map(json.loads, lines) if "loss" in line]
