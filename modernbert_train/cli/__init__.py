"""The command line: `modernbert COMMAND ...`."""

import logging
import os
import sys
import warnings
from collections.abc import Sequence

from modernbert_train.cli.errors import failed, is_ours
from modernbert_train.cli.parser import parse
from modernbert_train.common.redaction import RedactingFormatter, print_exception


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: those after `modernbert`; None: those of this process.

    Returns:
        The exit code: 0 success, 1 a check failed, 2 user error, 130 stopped by Ctrl-C, 137 another
        rank was killed, 138 preempted after saving (requeue).

    Raises:
        ValueError: A library raised it, or a defect of this program did.
    """
    options = parse(arguments)
    # Must be set before torch is imported. Threads that spin while they wait make a small model many times slower as
    # soon as another program needs the core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.excepthook = print_exception
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for library in ("composer", "streaming", "botocore", "azure", "httpx"):
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub").setLevel(
        logging.ERROR
    )  # warns of each of its retries, within each of ours
    # Libraries report their own deprecations at every start. Warnings that concern this package fail the tests.
    warnings.filterwarnings("ignore")
    try:
        return options.run(options)
    except ValueError as error:
        # Any other ValueError is a defect, here or in a library, whose traceback is needed.
        if not is_ours(error):
            raise
        return failed(error, status=2)
    except FloatingPointError as error:  # the loss is NaN or infinite
        return failed(error, status=1)
    except KeyboardInterrupt:
        return 130
