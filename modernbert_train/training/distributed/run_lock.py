"""A lock on the run folder: two runs in it, say by a job submitted twice, would overwrite each other's checkpoints.

It is a POSIX record lock, which the kernel releases however the process ends, so it is never stale. flock does not
serve: forks inherit its locks, and the loader's workers outlive a killed rank by seconds.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from modernbert_train.checkpoints.provenance import make_run_folder
from modernbert_train.checkpoints.run_files import LOCK_FILE
from modernbert_train.common.errors import naming
from modernbert_train.common.files import is_same_file
from modernbert_train.training.distributed.ranks import on_rank_zero

log = logging.getLogger(__name__)

# How long to wait for a holder that is ending. A killed process on this machine frees its memory first; a file server
# notices only by a timeout that another machine was switched off (NFS 4: 90 seconds).
_WAIT_SECONDS = 5.0
_WAIT_FOR_OTHER_HOST_SECONDS = 120.0
_POLL_SECONDS = 0.2

_LOCKED = (errno.EACCES, errno.EAGAIN)
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def only_run_in(run: Path) -> Iterator[None]:
    """Lock the run folder within this context. Collective; rank 0 holds the lock.

    The folder is created if needed, and removed at the end if it is empty.

    Yields:
        Nothing.

    Raises:
        ValueError: on every rank: another run holds the lock, or the folder cannot be written to.
    """
    descriptors: list[int] = []  # one on rank 0, none on the others
    on_rank_zero(lambda: descriptors.append(_acquire(run)))
    try:
        yield
    finally:
        for descriptor in descriptors:
            # Removed before it is unlocked, so that it cannot be the file of another run.
            (run / LOCK_FILE).unlink(missing_ok=True)
            os.close(descriptor)
            with suppress(OSError):  # not empty
                run.rmdir()


def _acquire(run: Path) -> int:
    """Wait for the lock, and return the descriptor of the locked file."""
    file, started, warned = run / LOCK_FILE, time.monotonic(), False
    while True:
        make_run_folder(run)
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            continue  # a run that just ended has removed the folder
        except OSError as error:
            raise ValueError(
                f"run_folder is {run}, which is not writable ({error.strerror}); name a folder that you may write to"
            ) from None
        if _lock(descriptor, run):
            if is_same_file(descriptor, file):
                with naming(file):
                    _write_holder(descriptor)
                return descriptor
            os.close(descriptor)  # the previous holder removed the file after this process had opened it
            continue
        holder = _read_holder(descriptor)
        os.close(descriptor)
        same_host = holder.get("host") == socket.gethostname()
        wait_seconds = _WAIT_SECONDS if same_host else _WAIT_FOR_OTHER_HOST_SECONDS
        if time.monotonic() - started >= wait_seconds:
            raise ValueError(
                f"run_folder is {run}, in which another run is active: {_who(holder)}; wait for it, stop it (SIGTERM: "
                "it saves first), or name another run_folder"
            )
        if not warned:
            log.warning(
                "%s is held by %s; waiting up to %g seconds for it to end", run, _who(holder), wait_seconds
            )
            warned = True
        time.sleep(_POLL_SECONDS)


def _lock(descriptor: int, run: Path) -> bool:
    """Try to lock the file; return True with a warning if the file system does not support locks."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _LOCKED:
            return False
        if error.errno not in _UNSUPPORTED:
            raise
        log.warning(
            "the file system of %s does not support locks (%s), so a second run in it would not be noticed",
            run,
            error.strerror,
        )
    return True


def _write_holder(descriptor: int) -> None:
    holder = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _read_holder(descriptor: int) -> dict[str, object]:
    try:
        holder = json.loads(os.pread(descriptor, 4_096, 0))
    except ValueError:
        return {}  # the holder has not written yet
    return holder if isinstance(holder, dict) else {}


def _who(holder: dict[str, object]) -> str:
    if not holder:
        return "a process that has just started"
    job = f", Slurm job {holder['slurm_job']}" if holder.get("slurm_job") else ""
    return f"process {holder.get('pid')} on {holder.get('host')}, since {holder.get('since')}{job}"
