"""One run at a time in a run folder: two of them, by a job submitted twice, would write over each other's checkpoints.

A POSIX record lock, which the kernel takes back when the process ends in whatever way, so that none is ever stale. Not
flock's: those are inherited by forks, and the loader's workers outlive a killed rank by seconds.
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
from modernbert_train.training.distributed.ranks import on_rank_zero

log = logging.getLogger(__name__)

# How long a holder may take to go. A killed process of this machine gives its memory back first; of a machine that was
# switched off, a file server learns by its silence (NFS 4: 90 seconds).
_PATIENCE_SECONDS = 5.0
_PATIENCE_WITH_OTHER_HOSTS_SECONDS = 120.0
_POLL_SECONDS = 0.2

_HELD = (errno.EACCES, errno.EAGAIN)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def only_run_in(run: Path) -> Iterator[None]:
    """Hold the run folder while this is entered; collective, rank 0 does it.

    ValueError, on every rank: another run holds it, or it cannot be written to. A folder that was made for it, and into
    which nothing was written, is removed again.
    """
    held: list[int] = []  # the descriptor, on rank 0
    on_rank_zero(lambda: held.append(_acquire(run)))
    try:
        yield
    finally:
        for descriptor in held:
            (run / LOCK_FILE).unlink(missing_ok=True)  # while it is held: nobody else's
            os.close(descriptor)
            with suppress(OSError):
                run.rmdir()  # of an empty one only


def _acquire(run: Path) -> int:
    """The descriptor of the locked file."""
    file, waited_since, told = run / LOCK_FILE, time.monotonic(), False
    while True:
        make_run_folder(run)
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            continue  # a run that ended just now has taken the folder with it
        except OSError as error:
            raise ValueError(
                f"run_folder is {run}, which cannot be written to ({error.strerror}); name a folder that you may "
                "write to"
            ) from None
        if _lock(descriptor, run):
            if _is_still(file, descriptor):
                _write_holder(descriptor)
                return descriptor
            os.close(descriptor)  # the one before removed it between our opening and our locking
            continue
        holder = _read_holder(descriptor)
        os.close(descriptor)
        is_elsewhere = holder.get("host") != socket.gethostname()
        patience = _PATIENCE_WITH_OTHER_HOSTS_SECONDS if is_elsewhere else _PATIENCE_SECONDS
        if time.monotonic() - waited_since >= patience:
            raise ValueError(
                f"run_folder is {run}, in which another run is at work: {_who(holder)}; wait for it, end it (SIGTERM: "
                "it saves first), or name another run_folder"
            )
        if not told:
            log.warning(
                "%s is held by %s; waiting up to %g seconds for it to end", run, _who(holder), patience
            )
            told = True
        time.sleep(_POLL_SECONDS)


def _lock(descriptor: int, run: Path) -> bool:
    """Whether it could be locked, or the file system knows no locks, which is said."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        if error.errno not in _NO_LOCKS:
            raise
        log.warning(
            "the file system of %s has no locks (%s): nothing keeps a second run from starting in it",
            run,
            error.strerror,
        )
    return True


def _is_still(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


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
        return {}  # it has locked, and not written yet
    return holder if isinstance(holder, dict) else {}


def _who(holder: dict[str, object]) -> str:
    if not holder:
        return "a process that has just begun"
    job = f", Slurm job {holder['slurm_job']}" if holder.get("slurm_job") else ""
    return f"process {holder.get('pid')} on {holder.get('host')}, since {holder.get('since')}{job}"
