"""``python -m experiments.benchmark``: how fast this machine is. Not part of the installed package."""

import sys

from benchmarks.benchmark import main

if __name__ == "__main__":
    sys.exit(main())
