"""Pretrains the pool of models that ``distill`` samples from.

python -m experiments.pretrain acc_dd digits --models.size 5 --models.epochs 2 --workdir runs/pool
python -m experiments.distill  acc_dd digits --models.size 5 --models.epochs 2 --pool runs/pool
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from distill_jax import hosts
from distill_jax.checkpoint import check_pool, load_pool, save_pool
from distill_jax.cli.output import display
from distill_jax.cli.process.clock import Clock
from distill_jax.cli.process.interrupts import Interrupts
from distill_jax.cli.process.launch import OnHosts
from distill_jax.cli.process.run_command import run_command
from distill_jax.cli.request import arguments
from distill_jax.cli.session.pool import has_pool, make_pool
from distill_jax.cli.session.resume import Resumable, resumable
from distill_jax.cli.session.setup import Setup, refuse_different, set_up
from distill_jax.cli.session.workdir import CONFIG, MEMBERS, POOL, new_folder, open_workdir
from distill_jax.formats import pool_from_torch
from distill_jax.types import Model, RequestError


@dataclass(frozen=True)
class Pretrain(OnHosts, Resumable, arguments.Common):
    """Pretrain the pool of models that a method samples from, into WORKDIR/pool."""

    eval_every: int = 0
    """above 0: pretrain for runs that withhold a tenth of the training data (distill --eval-every, ablate --held-out,
    tune)"""
    resident_images: int = 0
    """number of real images per class on the device at a time, for data that do not fit; should be at least
    --selector.batch; 0: all"""
    from_torch: Annotated[tuple[Path, ...], arg(metavar="FILE [FILE ...]")] = ()
    """instead of training, convert these PyTorch state dicts of the same network, trained on the same data"""


def run(argv: list[str]) -> None:
    request = arguments.request(argv, Pretrain)
    options = request.options
    setup = set_up(request, options.eval_every, resident=options.resident_images)
    if setup.spec.models.size == 0:
        raise RequestError(f"{setup.method} has no pool to pretrain: choose another method, or --models early-stage")
    given = _given(setup, options.from_torch) if options.from_torch else None
    refuse_different(setup)
    path = options.workdir or hosts.broadcast(lambda: new_folder(f"pool-{setup.folder}"))
    hosts.broadcast(lambda: _refuse_used(path, options))
    print(display.configuration(setup.title, setup.experiment))
    with open_workdir(path) as workdir, Interrupts() as interrupts, resumable("pretrain", argv, path):
        hosts.broadcast(lambda: _refuse_used(path, options))
        if options.resume and has_pool(path):
            _, about = load_pool(path / POOL)
            check_pool(about, setup.describe_pool())
            _check_made(about, setup, options)
            print(f"already finished: {path / POOL}")
            return
        if options.resume and not workdir.has(MEMBERS) and hosts.is_first():
            workdir.warn_nothing_to_resume(POOL)
        for name in (POOL, MEMBERS) if not options.resume and hosts.is_first() else ():
            shutil.rmtree(path / name, ignore_errors=True)
        clock = Clock()
        if given is not None:
            save_pool(path / POOL, given, {**setup.describe_pool(), "from_torch": [p.name for p in options.from_torch]})
        else:
            make_pool(setup, workdir, setup.feed(), interrupts, clock)
        clock.spent("pretrain")
    took = sum(clock.seconds.values())
    print(f"pool of size {setup.spec.models.size} made in {display.duration(took)}: {path / POOL}")


def _check_made(about: Mapping[str, Any], setup: Setup, options: Pretrain) -> None:
    """Raise RequestError if a finished pool was made with other options."""
    now = {"seed": setup.seed, "resident_images": setup.resident}
    if options.from_torch:
        now = {"from_torch": [path.name for path in options.from_torch]}
    for name, value in now.items():
        if about.get(name, value) != value:
            raise RequestError(f"the finished pool has {name} {about[name]}, not {value}: give another --workdir")


def _given(setup: Setup, files: Sequence[Path]) -> Model:
    """Return the pool of networks in PyTorch files. Raise RequestError if the method needs another pool."""
    models = setup.spec.models
    if models.gives_target:
        raise RequestError("PyTorch files contain no target parameters: use --from-torch with --models early-stage")
    if models.size != len(files):
        raise RequestError(
            f"models.size is {models.size}, but {len(files)} files are given: add --models.size {len(files)}"
        )
    return pool_from_torch(setup.net, files)


def _refuse_used(path: Path, options: Pretrain) -> None:
    if (path / CONFIG).exists():
        raise RequestError(f"{path} holds a run whose pool must not change: give another --workdir")
    for name in (POOL, MEMBERS):
        if (path / name).exists() and not options.overwrite and not options.resume:
            raise RequestError(f"{path} holds a pool ({name}): --resume continues it, --overwrite replaces it")


main = partial(run_command, run, together=True)
