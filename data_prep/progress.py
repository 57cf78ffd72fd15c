"""The progress bars of all commands."""

import sys
from typing import Any

from tqdm import tqdm

LOG_INTERVAL_S = 30.0  # between lines of a bar in a file, where nothing is redrawn


def progress_bar(*arguments: Any, **options: Any) -> "tqdm[Any]":
    """Make a bar of tqdm, which is seldom drawn where stderr is not a terminal.

    Args:
        *arguments: of tqdm.
        **options: of tqdm.

    Returns:
        The bar.
    """
    if not sys.stderr.isatty():
        options |= {"mininterval": LOG_INTERVAL_S, "maxinterval": LOG_INTERVAL_S}
    return tqdm(*arguments, **options)
