"""The command line: `modernbert COMMAND ...`."""

import logging
import os
import sys
import warnings
from collections.abc import Sequence

from modernbert_train.cli.parser import parse
from modernbert_train.common.errors import explain, report
from modernbert_train.common.redaction import RedactingFormatter, print_exception


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: those after `modernbert`; None: those of this process.

    Returns:
        The exit code: 0 success, 1 a check or the machine failed, 2 user error, 130 stopped by Ctrl-C, 137 another
        rank was killed, 138 preempted after saving (requeue).

    Raises:
        Exception: A defect of this program or of a library, whose traceback is needed.
    """
    options = parse(arguments)
    # Both must be set before torch is imported. Threads that spin while they wait make a small model many times slower
    # as soon as another program needs the core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Its warnings of a lost connection, with a backtrace, would follow the error that names the cause.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
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
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if (explained := explain(error)) is None:
            raise
        report(explained.text)
        return explained.exit_code
