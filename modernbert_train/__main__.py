"""Entry of `python -m modernbert_train`, which `composer -n N -m modernbert_train` starts."""

import sys

from modernbert_train.cli import main

sys.exit(main())
