"""Signals, the exit code that all ranks of a launch share, and the end of a process with its parent.

`composer` exits with the code of the lowest rank that has failed, also if the launcher itself has ended that rank: a
wrong recipe (2) on rank 1 becomes 241 (rank 0 killed by SIGTERM). So the first rank of a machine that fails leaves its
code in a file, and the others end with the same. torchrun exits with 1; docker/launch.sh reads the file.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

# 128 + SIGUSR1. Kubeflow's restartPolicy ExitCode restarts a pod for codes from 128 only. A shell reports the same code
# for a process that SIGUSR1 has killed before it installed its handler, which needs a restart as well. Python, torch
# and crashes do not use it.
REQUEUE_EXIT_CODE = 138
INTERRUPTED_EXIT_CODE = 128 + signal.SIGINT
KILLED_EXIT_CODE = 128 + signal.SIGKILL
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # of schedulers, which start the job again

# Environment variable: the file with the exit code, where docker/launch.sh reads it.
EXIT_CODE_FILE = "MODERNBERT_EXIT_CODE_FILE"

# How long a process that has failed may take to end: functions that libraries call at exit wait for threads, processes
# and other ranks.
EXIT_SECONDS = 15.0

# How long a rank that its launcher ends, since another has failed, may take to print the cause.
_LAST_WORD_SECONDS = 4.0

_PR_SET_PDEATHSIG = 1  # of prctl(2)


def is_rank() -> bool:
    """Check whether `composer` or torchrun has started this process."""
    return "LOCAL_WORLD_SIZE" in os.environ


def _has_other_ranks() -> bool:
    """Check whether other ranks of this machine, or docker/launch.sh, need this process's exit code."""
    # Composer makes a process that trains without a launcher a rank as well, the only one.
    return EXIT_CODE_FILE in os.environ or os.environ.get("LOCAL_WORLD_SIZE", "1") != "1"


def first_exit_code(code: int) -> int:
    """Return the exit code of the rank of this launch and machine that failed first: `code` if it is this one."""
    if code == 0 or not _has_other_ranks():
        return code
    file = _exit_code_file()
    mine = file.with_name(f"{file.name}.{os.getpid()}")
    with suppress(OSError):  # without a temporary folder, every rank keeps its code
        mine.write_text(str(code))
        with suppress(FileExistsError):
            os.link(mine, file)  # with its content, unlike a file that is opened for writing
        mine.unlink()
    return failed_exit_code() or code


def failed_exit_code() -> int | None:
    """Return the exit code of the rank of this launch and machine that failed first; None if none has failed."""
    try:
        return int(_exit_code_file().read_text()) if _has_other_ranks() else None
    except (OSError, ValueError):
        return None


def end_with_first_rank() -> None:
    """Make SIGTERM, by which launchers end the other ranks, end this process with the code of the first to fail."""
    if is_rank():
        if "TORCHELASTIC_RUN_ID" in os.environ and os.environ["LOCAL_RANK"] == "0":
            # torchrun starts ranks again when a node joins: what their predecessors have left is not their code.
            with suppress(OSError):
                _exit_code_file().unlink()
        signal.signal(signal.SIGTERM, _end_by_launcher)


def _end_by_launcher(number: int, frame: FrameType | None) -> None:
    if (code := failed_exit_code()) is None:
        os._exit(128 + number)
    end_soon(code)


def end_soon(code: int) -> None:
    """End this process, whose launcher ends it since another rank has failed, after it could say so itself."""
    timer = threading.Timer(_LAST_WORD_SECONDS, end_at_once, [code])
    timer.daemon = True
    timer.start()


def leave(code: int) -> NoReturn:
    """Exit with the code of the rank that failed first; after a failure within `EXIT_SECONDS`, whatever is in the way.

    Raises:
        SystemExit: always.
    """
    code = first_exit_code(code)
    if code:
        timer = threading.Timer(EXIT_SECONDS, end_at_once, [code])
        timer.daemon = True
        timer.start()
    raise SystemExit(code)


def end_at_once(code: int) -> NoReturn:
    """End this process and its children, without the functions that libraries call at exit."""
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(code)


def _exit_code_file() -> Path:
    named = os.environ.get(EXIT_CODE_FILE)
    return Path(named) if named else _EXIT_CODE_FILE_OF_LAUNCHER


def _file_of_launcher() -> Path:
    launcher = os.getppid()
    started = ""
    with suppress(OSError, IndexError):  # no /proc: not Linux
        # Process ids are used again: the start time (proc(5), field 22) tells launchers apart.
        started = Path(f"/proc/{launcher}/stat").read_text().rpartition(")")[2].split()[19]
    return Path(tempfile.gettempdir()) / f"modernbert-exit-{os.getuid()}-{launcher}-{started}"


# At the start: the parent of a rank is another process once its launcher has died.
_EXIT_CODE_FILE_OF_LAUNCHER = _file_of_launcher()


def end_with_parent(number: int) -> None:
    """Ask the kernel to send this process signal `number` when its parent dies. Does nothing except on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
