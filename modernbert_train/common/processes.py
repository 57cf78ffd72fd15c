"""Signals and exit codes of the processes of a run, and their ties to the process that started them."""

import ctypes
import signal
import sys

# 128 + SIGUSR1. Kubeflow's restartPolicy ExitCode starts a pod again for 128 and more, and for nothing below; a shell
# says the same of a process that SIGUSR1 has killed before it could listen, which wants the same answer; and neither
# Python nor torch nor a crash ends with it.
REQUEUE_EXIT_CODE = 138
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


def end_with_parent(number: int) -> None:
    """Ask the kernel to send this process a signal when its parent dies (Linux only: PR_SET_PDEATHSIG of prctl(2))."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, number)
