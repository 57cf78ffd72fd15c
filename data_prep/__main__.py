"""`python -m data_prep`. The guard matters: worker processes import this file again."""

import sys

from data_prep.cli import main

if __name__ == "__main__":
    sys.exit(main())
