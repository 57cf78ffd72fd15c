"""Entry of `python -m modernbert_train`, which `composer -n N -m modernbert_train` starts."""

import sys

from modernbert_train.common.processes import end_with_first_rank, first_exit_code

end_with_first_rank()  # before the imports, which take seconds

from modernbert_train.cli import main  # noqa: E402

try:
    code = main()
except SystemExit as stop:  # --help, or invalid arguments
    code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
except Exception:
    sys.excepthook(*sys.exc_info())
    code = 1
sys.exit(first_exit_code(code))
