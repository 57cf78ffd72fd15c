"""Entry point of `python -m data_prep`; the guard is needed because worker processes import this file."""

import sys

from data_prep.cli import main

if __name__ == "__main__":
    sys.exit(main())
