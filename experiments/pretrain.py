"""Pretrain the pool of early-stage models that ``distill`` draws from.

python -m experiments.pretrain acc_dd digits --models.size 5 --models.epochs 2 --workdir runs/pool
python -m experiments.distill  acc_dd digits --models.size 5 --models.epochs 2 --pool runs/pool
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, arg

from distill_jax.formats import pool_from_torch
from distill_jax.store import save_pool
from distill_jax.types import Model, RequestError
from experiments import cli, show
from experiments.entry import Interrupts, enter
from experiments.job import Job, make_pool, resolve
from experiments.measure import Clock
from experiments.workdir import CONFIG, POOL, held, new_folder


@dataclass(frozen=True)
class Pretrain(cli.Common):
    """Pretrain the pool of models that a method starts from, into WORKDIR/pool."""

    workdir: Path | None = None
    """default: a new folder under runs/"""
    overwrite: FlagCreatePairsOff[bool] = False
    """replace the pool in WORKDIR"""
    eval_every: int = 0
    """above 0: for a run with --eval-every, which withholds a tenth of the training data"""
    from_torch: Annotated[tuple[Path, ...], arg(metavar="FILE [FILE ...]")] = ()
    """train nothing: take these state dicts of PyTorch, of the same network and trained on the same data"""


def run(argv: list[str]) -> None:
    request = cli.request(argv, Pretrain)
    options = request.options
    job = resolve(request, options.eval_every)
    if job.spec.models.size == 0:
        raise RequestError(f"{job.method} has no pool to pretrain: choose another method, or --models early-stage")
    given = _given(job, options.from_torch) if options.from_torch else None
    path = options.workdir or new_folder(f"pool-{job.folder}")
    _refuse_used(path, options.overwrite)
    print(show.configuration(job.title, job.experiment))
    with held(path) as workdir, Interrupts() as interrupts:
        _refuse_used(path, options.overwrite)
        if workdir.has(POOL):
            shutil.rmtree(path / POOL)
        clock = Clock()
        if given is not None:
            save_pool(path / POOL, given, {**job.describe_pool(), "from_torch": [p.name for p in options.from_torch]})
        else:
            make_pool(job, workdir, job.data.real_data(), interrupts)
        clock.spent("pretrain")
    took = sum(clock.seconds.values())
    print(f"{job.spec.models.size} models in {show.duration(took)}: {path / POOL}")


def _given(job: Job, files: Sequence[Path]) -> Model:
    """The pool that networks in files of PyTorch make. Raises RequestError where the method takes another."""
    models = job.spec.models
    if getattr(models, "gives_target", False):
        raise RequestError("files of single networks have no targets for them: --from-torch takes --models early-stage")
    if models.size != len(files):
        raise RequestError(f"models.size is {models.size} but files are {len(files)}: add --models.size {len(files)}")
    return pool_from_torch(job.net, files)


def _refuse_used(path: Path, overwrite: bool) -> None:
    if (path / CONFIG).exists():
        raise RequestError(f"{path} holds a run, whose pool must not change: give another --workdir")
    if (path / POOL).exists() and not overwrite:
        raise RequestError(f"{path} holds a pool: --overwrite replaces it")


def main(argv: Sequence[str] | None = None) -> int:
    return enter(run, argv)


if __name__ == "__main__":
    sys.exit(main())
