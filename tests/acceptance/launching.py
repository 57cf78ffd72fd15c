"""Commands as a user types them, with the launcher that is installed beside this Python."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

COMPOSER = Path(sys.executable).with_name("composer")


def launch(
    num_processes: int, *arguments: str | Path, seconds: float = 240
) -> subprocess.CompletedProcess[str]:
    """`composer -n N -m modernbert_train ARGUMENTS`; standard error goes where standard output goes.

    subprocess.TimeoutExpired after so many seconds: a launch that should have ended hangs.
    """
    command = [COMPOSER, "-n", str(num_processes), "-m", "modernbert_train", *arguments]
    process = subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the launcher and its ranks
        process.wait()
        raise
    return subprocess.CompletedProcess(command, process.returncode, output)


def read_steps(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that tell of a step."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, lines) if "loss" in line]
