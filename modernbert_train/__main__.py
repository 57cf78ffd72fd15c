"""Entry of `python -m modernbert_train`, which `composer -n N -m modernbert_train` starts."""

import sys
from collections.abc import Sequence
from typing import NoReturn

from modernbert_train.common.processes import end_with_first_rank, leave


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command as the whole of a process, which ends soon after a failure, and with the code of the first rank.

    Args:
        arguments: those after `modernbert`; None: those of this process.

    Raises:
        SystemExit: always.
    """
    end_with_first_rank()  # before the imports, which take seconds

    from modernbert_train.cli import main

    try:
        code = main(arguments)
    except SystemExit as stop:  # --help, or invalid arguments
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except Exception:
        sys.excepthook(*sys.exc_info())
        code = 1
    leave(code)


if __name__ == "__main__":
    run()
