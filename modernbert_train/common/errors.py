"""Errors as lines for users: what failed, where, and what to do; and the exit code that goes with them.

An error that a user can cause or meet becomes a line; any other error is a defect, whose traceback is needed.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from modernbert_train.common.processes import KILLED_EXIT_CODE, failed_exit_code
from modernbert_train.common.redaction import redact
from modernbert_train.common.text import one_line

_PACKAGE = Path(__file__).parents[1]

FAILED, WRONG = 1, 2  # exit codes: it may go well next time; it cannot before the user has changed something

_AGAIN = "then run the same command again"
_FULL = f"free some space, or name a folder on a larger disk, {_AGAIN}"
_NOT_ALLOWED = f"give this user access to it, or name another folder, {_AGAIN}"
_GONE = f"it, or a folder above it, was moved or deleted while it was in use; put it back, {_AGAIN}"
_STORAGE = f"check the storage and the network, {_AGAIN}"
_REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: f"free some of your quota, or name another folder, {_AGAIN}",
    errno.EFBIG: f"raise the largest size of a file (`ulimit -f unlimited`), {_AGAIN}",
    errno.EACCES: _NOT_ALLOWED,
    errno.EPERM: _NOT_ALLOWED,
    errno.EROFS: _NOT_ALLOWED,
    errno.ENOENT: _GONE,
    errno.ENOTDIR: _GONE,
    errno.ESTALE: _GONE,
    errno.EIO: _STORAGE,
    errno.ETIMEDOUT: _STORAGE,
    errno.EMFILE: f"raise the number of open files (`ulimit -n`), {_AGAIN}",
    errno.ENFILE: f"close other programs, {_AGAIN}",
    errno.ENOMEM: f"request more memory, {_AGAIN}",
}
# Errors that say nothing about the content of a file.
_OF_THE_MACHINE = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
# What torch's writer of zip files says whatever has stopped it; an OSError in the chain has the reason.
_TORCH_CANNOT_WRITE = ("inline_container.cc", "PytorchStreamWriter")


class TransientError(ValueError):
    """A failure that may be over next time without a change: a server that does not answer, a full disk."""


class OtherRankFailed(Exception):
    """Another rank has failed; the message is its error."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Explained:
    """An error that a user can cause or meet."""

    # A line for each problem.
    text: str
    exit_code: int


def explain(error: BaseException) -> Explained | None:
    """Return the text and the exit code of an error that a user can cause or meet; None for a defect."""
    if isinstance(error, OtherRankFailed):
        return Explained(str(error), error.exit_code)
    if isinstance(error, ValueError):
        # One of a library is a defect, here or there.
        code = FAILED if isinstance(error, TransientError) else WRONG
        return Explained(str(error) or repr(error), code) if is_ours(error) else None
    if isinstance(error, FloatingPointError):  # the loss is NaN or infinite
        return Explained(str(error), FAILED)
    if isinstance(error, OSError):
        return Explained(_describe(error), FAILED)
    if "OutOfMemoryError" in type(error).__name__:  # torch's, of a GPU
        return Explained(
            f"the GPU's memory ran out ({one_line(error)}); lower micro_batch_tokens, or use more GPUs",
            FAILED,
        )
    if isinstance(error, MemoryError):
        return Explained(f"memory ran out ({one_line(error)}); request more, {_AGAIN}", FAILED)
    return _lost_process(error) if isinstance(error, RuntimeError) else None


def is_of_the_machine(error: BaseException) -> bool:
    """Check whether the machine or its storage has failed, not the content of a file."""
    return isinstance(error, OSError) and error.errno in _OF_THE_MACHINE


def is_ours(error: BaseException) -> bool:
    """Check whether an error was raised by this package, whose ValueErrors are addressed to users."""
    frames = traceback.extract_tb(error.__traceback__)
    return Path(frames[-1].filename).is_relative_to(_PACKAGE)


def is_lost_rank(error: BaseException) -> bool:
    """Check whether another rank has ended or does not answer: gloo's errors for a closed connection and a timeout."""
    return isinstance(error, RuntimeError) and any(
        part in str(error) for part in ("by peer", "Timed out waiting", "remote process exited")
    )


def report(text: str) -> None:
    """Print an error to stderr."""
    print(error_lines(text), end="", file=sys.stderr, flush=True)


def error_lines(text: str) -> str:
    """Format an error without its secrets; every rank prints it, since the launcher may end any of them first."""
    rank = int(os.environ.get("RANK", "0"))
    who = f"rank {rank}: " if rank else ""
    return "".join(f"{who}error: {line}\n" for line in redact(text).splitlines())


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file in an error of reading or writing it: an error of a file that is open already does not.

    Args:
        path: of the file.

    Yields:
        Nothing.

    Raises:
        OSError: It cannot be read or written, also where torch says so by a RuntimeError.
        RuntimeError: Any other.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    except RuntimeError as error:  # of torch
        if not any(part in str(error) for part in _TORCH_CANNOT_WRITE):
            raise
        reason = next((link for link in chain(error) if isinstance(link, OSError)), None)
        number = reason.errno if reason is not None and reason.errno is not None else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _describe(error: OSError) -> str:
    if error.errno is None:  # of a library
        return one_line(error)
    reason = error.strerror or os.strerror(error.errno)
    where = f"{error.filename}: " if error.filename is not None else ""
    return f"{where}{reason}; {_REMEDIES.get(error.errno, _STORAGE)}"


def _lost_process(error: RuntimeError) -> Explained | None:
    text = str(error)
    if is_lost_rank(error):
        # A rank that failed by itself has left its exit code; one that was killed, or whose machine is gone, could not.
        return Explained(
            "another rank has ended or does not answer, which ends this one; see the log of that rank for the cause",
            failed_exit_code() or KILLED_EXIT_CODE,
        )
    if "DataLoader worker" not in text:
        return None
    if "Bus error" in text:
        return Explained(
            f"a data loader worker was killed ({text}): a file of a store became shorter while it was read, or "
            f"/dev/shm is full; restore the store, or give the container more shared memory, {_AGAIN}",
            FAILED,
        )
    return Explained(
        f"a data loader worker was killed, most often because memory ran out ({text}); lower data.num_workers, or "
        f"request more memory, {_AGAIN}",
        FAILED,
    )
