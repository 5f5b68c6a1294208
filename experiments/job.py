"""A request, resolved: everything that ``pretrain`` and ``distill`` need to know before they write anything."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax

from configs.recipe import Experiment
from distill_jax.data import Dataset
from distill_jax.distilled import library_version
from distill_jax.evaluate import Protocol
from distill_jax.models import Drawn
from distill_jax.spec import CHOICES, Spec, check, described, with_chunks
from distill_jax.store import check_pool, load_pool, save_pool
from distill_jax.types import Array, Net, PyTree, RealData
from experiments.cli import Request
from experiments.entry import Interrupts
from experiments.show import Bar
from experiments.workdir import POOL, Workdir

WITHHELD = 0.1
"""share of the training data that ``--eval-every`` reports on"""


class Keys(NamedTuple):
    """The random keys of a run, all from ``--seed``."""

    pool: Array
    """pretraining"""
    run: Array
    """distillation"""
    score: Array
    """evaluation"""
    draw: Array
    """the real images of the random baseline"""

    @staticmethod
    def of(seed: int) -> Keys:
        return Keys(*jax.random.split(jax.random.key(seed), 4))


@dataclass(frozen=True)
class Job:
    """What is to be done, with which data."""

    method: str
    dataset: str
    recipe: str
    seed: int
    experiment: Experiment
    source: Dataset
    """as it was read"""
    data: Dataset
    """what is distilled: ``source``, or the part of it that is not withheld"""
    net: Net

    @property
    def spec(self) -> Spec:
        return self.experiment.spec

    @property
    def keys(self) -> Keys:
        return Keys.of(self.seed)

    @property
    def title(self) -> str:
        shape = "x".join(map(str, self.data.shape))
        return (
            f"{self.method} on {self.dataset} (recipe {self.recipe}): {len(self.data.x_train)} images {shape}, "
            f"{self.data.classes} classes, {self.spec.ipc} stored per class"
        )

    @property
    def folder(self) -> str:
        """A name for a folder of this job's own."""
        data = self.dataset if ":" not in self.dataset else Path(self.dataset.partition(":")[2]).stem
        return re.sub(r"[^\w.-]+", "_", f"{self.method}-{data}-ipc{self.spec.ipc}-seed{self.seed}")

    def describe(self) -> dict[str, Any]:
        """Everything needed to do it again, ready for JSON."""
        return {
            "schema": 1,
            "method": self.method,
            "dataset": self.dataset,
            "recipe": self.recipe,
            "seed": self.seed,
            "spec": self.spec.describe(),
            "hyper": asdict(self.experiment.hyper),
            "protocol": described(self.experiment.protocol),
            "data": {
                "fingerprint": self.source.fingerprint,
                "shape": self.data.shape,
                "classes": self.data.classes,
                "withheld": self.data is not self.source and WITHHELD,
            },
            "versions": {"distill_jax": library_version(), "jax": jax.__version__, "python": platform.python_version()},
        }

    def describe_pool(self) -> dict[str, Any]:
        """What a pool must have been made with to be of use here."""
        models = self.spec.models
        used_later = {f.name for f in fields(Drawn)}
        training = {name: value for name, value in described(models).items() if name not in used_later}
        return {
            "net": self.spec.describe()["net"],
            "shape": self.data.shape,
            "classes": self.data.classes,
            "data": self.data.fingerprint,
            "models": training,
        }


def rebuilt(description: Any) -> Any:
    """The value that ``described`` a choice that has a name on the command line, or a protocol.

    None for anything else: a class of the user's own, or a description that another program wrote.
    """
    if not isinstance(description, Mapping):
        return tuple(description) if isinstance(description, list) else description
    known = [make() for choices in CHOICES.values() for make in choices.values()] + [Protocol()]
    for value in known:
        if type(value).__name__ == description.get("choice"):
            parts = {name: rebuilt(part) for name, part in description.items() if name != "choice"}
            fits = parts.keys() <= {f.name for f in fields(value)} and None not in parts.values()
            return replace(value, **parts) if fits else None
    return None


def resolve(request: Request[Any], eval_every: int = 0, chunks: Mapping[str, Any] | None = None) -> Job:
    """The job that ``request`` asks for. ``chunks``: the sizes that the run to resume was begun with.

    Raises RequestError where the spec does not fit the data.
    """
    options, recipe, experiment, source = request
    data = source.withhold(WITHHELD, options.seed) if eval_every else source
    spec = experiment.spec
    check(spec, data.shape, data.counts.tolist())
    if chunks:
        sizes = {name: getattr(spec, name) or chunks.get(name, 0) for name in ("class_chunk", "model_chunk")}
        spec = replace(spec, **sizes)
    spec = with_chunks(spec, data.classes, jax.default_backend())
    net = spec.net.build(data.shape, data.classes)
    experiment = replace(experiment, spec=spec)
    return Job(options.method, options.dataset, recipe, options.seed, experiment, source, data, net)


# ------------------------------------------------------------------ the pool


def pool_path(path: Path) -> Path:
    """The pool in ``path``, which may also be the workdir that it is in."""
    return path / POOL if (path / POOL).is_dir() else path


def read_pool(job: Job, path: Path) -> PyTree:
    """The pool in ``path``. Raises RequestError, naming the field, where it was made for something else."""
    pool, about = load_pool(path)
    check_pool(about, job.describe_pool())
    return pool


def make_pool(job: Job, workdir: Workdir, data: RealData, interrupts: Interrupts) -> None:
    """Pretrain the pool and save it in ``workdir``, once it is complete."""
    hyper = asdict(job.experiment.hyper)
    about = {**job.describe_pool(), "seed": job.seed, "hyper": hyper}
    with Bar("pretraining", 1, unit="epochs") as bar:

        def tick(done: int, total: int) -> None:
            bar.update(done, total=total)
            interrupts.check()

        pool = job.spec.models.pretrain(job.net, data, job.experiment.hyper, job.keys.pool, tick)
    save_pool(workdir.path / POOL, pool, about)
