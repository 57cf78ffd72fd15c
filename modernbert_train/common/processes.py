"""Signals and the exit code of preemption, and the end of a process with its parent."""

import ctypes
import signal
import sys

# 128 + SIGUSR1. Kubeflow's restartPolicy ExitCode restarts a pod for codes from 128 only. A shell reports the same code
# for a process that SIGUSR1 has killed before it installed its handler, which needs a restart as well. Python, torch
# and crashes do not use it.
REQUEUE_EXIT_CODE = 138
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

_PR_SET_PDEATHSIG = 1  # of prctl(2)


def end_with_parent(number: int) -> None:
    """Ask the kernel to send this process signal `number` when its parent dies. Does nothing except on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
