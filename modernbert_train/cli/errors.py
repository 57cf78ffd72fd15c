"""Errors as lines on stderr."""

import os
import sys
import traceback
from pathlib import Path

from modernbert_train.common.redaction import redact

_PACKAGE = Path(__file__).parents[1]


def is_ours(error: Exception) -> bool:
    """Check whether an error was raised by this package, whose ValueErrors are addressed to users."""
    frames = traceback.extract_tb(error.__traceback__)
    return Path(frames[-1].filename).is_relative_to(_PACKAGE)


def failed(error: Exception, status: int) -> int:
    """Print an error without its secrets, on every rank: the launcher may end any first. Return the exit code."""
    rank = int(os.environ.get("RANK", "0"))
    for line in redact(str(error) or repr(error)).splitlines():
        print(f"rank {rank}: error: {line}" if rank else f"error: {line}", file=sys.stderr, flush=True)
    return status


def is_peer(error: RuntimeError) -> bool:
    """Check whether another rank has ended: gloo's error when the other end has closed a connection."""
    return "by peer" in str(error)


def lost_process(error: RuntimeError) -> str | None:
    """Explain an error caused by a dead rank or DataLoader worker; return None for any other error."""
    if is_peer(error):
        return "another rank has ended, which ends this one; see the log of that rank for the cause"
    if "DataLoader worker" in str(error):
        return (
            f"a data loader worker was killed, most often because memory ran out ({error}); lower "
            "data.num_workers, or request more memory, and run the same command again"
        )
    return None
