"""Joins sets of different classes, made with ``distill --classes``, into one set of all classes.

python -m experiments.distill acc_dd digits --classes 0:5 --workdir runs/first
python -m experiments.distill acc_dd digits --classes 5:10 --pool runs/first --workdir runs/second
python -m experiments.join runs/first runs/second --out digits.npz
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from distill_jax.cli.process.run_command import run_command
from distill_jax.cli.request.parser import parsed
from distill_jax.cli.session.set_files import saved, set_in
from distill_jax.join import joined


@dataclass(frozen=True)
class Join:
    """Join sets of different classes into one set of all classes of their data set. Score it with experiments.evaluate.

    The parts must agree in everything but their classes and seeds.
    """

    parts: Positional[
        Annotated[tuple[Path, ...], arg(metavar="PATH [PATH ...]", help="distilled sets, or workdirs of runs")]
    ]
    out: Annotated[Path, arg(metavar="OUT.npz")]
    """file to write"""


def run(argv: list[str]) -> None:
    options = parsed(Join, argv, "join")
    whole = joined([set_in(path) for path in options.parts])
    saved(whole, options.out)
    print(
        f"{options.out}: {len(whole.images)} images of {whole.classes} classes, joined from {len(options.parts)} parts"
    )


main = partial(run_command, run)
