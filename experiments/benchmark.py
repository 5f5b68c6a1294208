"""``python -m experiments.benchmark``: measure the speed of this machine. Not part of the installed package."""

import sys

from distill_jax.cli.main import stoppable

if __name__ == "__main__":
    with stoppable():
        from benchmarks.benchmark import main

        sys.exit(main())
