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
