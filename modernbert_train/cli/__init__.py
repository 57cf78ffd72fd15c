"""The command line: `modernbert COMMAND ...`."""

import logging
import os
import sys
import warnings
from collections.abc import Sequence

from modernbert_train.cli.errors import failed, is_ours
from modernbert_train.cli.parser import parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns the exit status: 0 done, 1 failed a check of its own, 2 the user can mend it, 138 was asked to end and has
    saved (start it again).
    """
    options = parse(arguments)
    # Before torch is imported: threads that wait by spinning make a small model many times slower as soon as another
    # program wants the core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for library in ("composer", "streaming", "botocore", "azure", "httpx"):
        logging.getLogger(library).setLevel(logging.WARNING)
    # The libraries below us announce their own deprecations on every start; ours are errors in the tests.
    warnings.filterwarnings("ignore")
    try:
        return options.run(options)
    except ValueError as error:
        if not is_ours(error):
            raise  # a defect, ours or a library's: whoever mends it needs the traceback
        return failed(error, status=2)
    except FloatingPointError as error:  # the loss is no number any more
        return failed(error, status=1)
    except KeyboardInterrupt:
        return 130
