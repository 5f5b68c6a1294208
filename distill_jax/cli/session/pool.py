"""The pool of models of a run: given, read, or pretrained in its folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

from distill_jax import hosts
from distill_jax.check_own import check_source
from distill_jax.checkpoint import Checkpoints, check_pool, load_pool, save_pool
from distill_jax.cli.output.display import Bar
from distill_jax.cli.process.clock import Clock
from distill_jax.cli.process.interrupts import Interrupts
from distill_jax.cli.session.atomic import read_json
from distill_jax.cli.session.setup import Setup
from distill_jax.cli.session.workdir import CONFIG, MEMBERS, POOL, Workdir, flat
from distill_jax.spec import as_arrays
from distill_jax.types import Feed, PyTree, RequestError


def pool_path(path: Path) -> Path:
    """Return the path of the pool in ``path``, which is the pool itself or a workdir."""
    return path / POOL if hosts.broadcast((path / POOL).is_dir) else path


def has_pool(path: Path) -> bool:
    """Return whether the workdir ``path`` has a complete pool. A process that is killed while saving leaves a folder
    without one."""
    return bool(Checkpoints(path / POOL).steps())


def given_pool(setup: Setup, path: Path | None) -> PyTree:
    """Return the pool of the option --pool, or None. Raise RequestError if the method does not use it."""
    if path is not None and setup.spec.models.size == 0:
        raise RequestError(f"{setup.method} uses no pool: leave out --pool, or choose --models early-stage")
    return None if path is None else read_pool(setup, pool_path(path))


def pool_of_run(options: Any, path: Path) -> Path | None:
    """Return the value of --pool, which a run in ``path`` that is resumed without it knows from its start."""
    if options.pool is not None or not options.resume:
        return options.pool
    config = flat(read_json(path / CONFIG))
    name = config.get("pool", config.get("runs.pool"))
    return None if name is None else Path(name)


def read_pool(setup: Setup, path: Path) -> PyTree:
    """Return the pool in ``path``. Raise RequestError, naming the field, if it was trained for another setup."""
    pool, about = load_pool(path)
    check_pool(about, setup.describe_pool())
    return pool


class KeptMembers(NamedTuple):
    """A MemberStore on disk with a folder per member, for a pool that is not complete yet."""

    folder: Path
    about: dict[str, Any]
    clock: Clock
    """measures pretraining; members keep its time for a resumed process"""

    def get(self, first: int, like: PyTree) -> PyTree | None:
        try:
            member, about = load_pool(self.folder / str(first), like)
            check_pool(about, self.about)
        except RequestError:
            return None  # missing, incomplete, or from another run: train it again
        spent = self.clock.seconds
        spent |= {phase: max(seconds, spent[phase]) for phase, seconds in about.get("seconds", {}).items()}
        return member

    def put(self, first: int, member: PyTree) -> None:
        self.clock.spent("pretrain")
        save_pool(self.folder / str(first), member, self.about | {"seconds": self.clock.seconds})


def pool_for(
    setup: Setup, workdir: Workdir, data: Feed, given: PyTree, interrupts: Interrupts, clock: Clock | None = None
) -> PyTree:
    """Return the pool in the workdir. If there is none, save the ``given`` pool or pretrain one first."""
    if setup.spec.models.size == 0:
        return None
    path = workdir.path / POOL
    if not has_pool(workdir.path):
        if given is not None:
            save_pool(path, given, setup.describe_pool())
        else:
            make_pool(setup, workdir, data, interrupts, clock)
    # Read the pool from disk in every case, so that a resumed run computes with the same arrays.
    return read_pool(setup, path)


def make_pool(setup: Setup, workdir: Workdir, data: Feed, interrupts: Interrupts, clock: Clock | None = None) -> None:
    """Pretrain the pool and save it in ``workdir``. Members that an earlier process finished are not trained again, and
    their time is added to ``clock``."""
    about = {**setup.describe_pool(), "seed": setup.seed, "resident_images": setup.resident}
    kept = KeptMembers(workdir.path / MEMBERS, about, clock or Clock())
    with Bar("pretraining", 1, unit="epochs") as bar:

        def tick(done: int, total: int) -> None:
            bar.update(done, total=total)
            interrupts.check()

        spec = as_arrays(setup.spec)
        pool = spec.models.pretrain(setup.net, data, setup.keys.pool, tick, kept)
    check_source(spec, setup.net, pool)
    save_pool(workdir.path / POOL, pool, about)
    if hosts.is_first():
        shutil.rmtree(kept.folder, ignore_errors=True)
