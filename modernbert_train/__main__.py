"""`python -m modernbert_train`, which is what `composer -n N -m modernbert_train` starts."""

import sys

from modernbert_train.cli import main

sys.exit(main())
