"""Reproduces published tables (``table.py``) and compares methods (``compare.py``).

python -m experiments.reproduce small
python -m experiments.reproduce compare --dataset digits --methods idc acc_dd dream --seconds 20 --points 5
"""

from __future__ import annotations

from functools import partial

from distill_jax.cli.process.run_command import run_command
from distill_jax.cli.tables import compare, table
from distill_jax.published.tables import TABLES


def run(argv: list[str]) -> None:
    is_table = argv[:1] and (argv[0] in TABLES or argv[0].endswith(".toml"))
    (compare if "compare" in argv and not is_table else table).run(argv)


main = partial(
    run_command, run, less_memory="-- --class-chunk 1 --model-chunk 1 at the end of the line, or fewer --repeats"
)
