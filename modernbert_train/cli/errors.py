"""Errors as lines for the user."""

import os
import sys
import traceback
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def is_ours(error: Exception) -> bool:
    """Whether it was raised by this package, whose ValueErrors speak to users."""
    frames = traceback.extract_tb(error.__traceback__)
    return Path(frames[-1].filename).is_relative_to(_PACKAGE)


def failed(error: Exception, status: int) -> int:
    """Say what is wrong; every rank does, for the launcher ends the others as soon as one of them has ended."""
    rank = int(os.environ.get("RANK", "0"))
    for line in str(error).splitlines() or [repr(error)]:
        print(f"rank {rank}: error: {line}" if rank else f"error: {line}", file=sys.stderr, flush=True)
    return status


def lost_process(error: RuntimeError) -> str | None:
    """What a library means that has lost a process this one needs; None if it means something else."""
    if "by peer" in str(error):  # how gloo says that a connection was closed at its other end
        return "another rank has ended, and this one with it; what ended that one stands in its own log"
    if "DataLoader worker" in str(error):
        return (
            f"a process that reads the data was killed, most often because memory ran out ({error}); lower "
            "data.num_workers, or ask for more memory, and start the same command again"
        )
    return None
