"""Setup: the resolved request of ``pretrain`` or ``distill``, and the pool of models."""

from __future__ import annotations

import inspect
import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import jax

from distill_jax import __version__, hosts
from distill_jax.check_spec import check, check_augmentations
from distill_jax.cli.cost.memory import check_fits
from distill_jax.cli.process.interrupts import Interrupts
from distill_jax.cli.request.arguments import Request
from distill_jax.cli.session.score import Scorer
from distill_jax.data import Dataset, feed
from distill_jax.distill import Problem
from distill_jax.platform import target
from distill_jax.recipes import Experiment
from distill_jax.run import Keys, with_chunks
from distill_jax.spec import Spec, as_arrays, own_axes, to_json
from distill_jax.types import Feed, Net, Normaliser, PyTree, RealData, RequestError

WITHHELD = 0.1
"""share of the training data that ``--eval-every`` and ``--held-out`` withhold"""


@dataclass(frozen=True)
class Setup:
    """A resolved request: the method, the data, and everything else known before anything is written."""

    method: str
    dataset: str
    recipe: str
    seed: int
    experiment: Experiment
    source: Dataset
    """the whole data set"""
    data: Dataset
    """the data to distil: ``source``, without the withheld part if there is one"""
    net: Net
    subset: tuple[str, ...] = ()
    """value of ``--subset``: the classes in the data set; () for all"""
    memory: str = ""
    """a line about the memory of the run, if it needs much of the device's"""
    resident: int = 0
    """number of real images per class on the device; 0: all"""

    @property
    def spec(self) -> Spec:
        return self.experiment.spec

    def real_data(self) -> RealData:
        """Return the training part on the device."""
        return self.data.real_data(self.spec.mean, self.spec.std)

    def feed(self, data: Dataset | None = None) -> Feed:
        """Return the training part of ``data`` (default: of ``self.data``), whole or in portions."""
        return feed(data or self.data, self.resident, self.seed, self.spec.mean, self.spec.std)

    @property
    def keys(self) -> Keys:
        return Keys.of(self.seed)

    def problem(self, data: RealData, pool: PyTree) -> Problem:
        """Return the problem of this run with these images and this pool."""
        return Problem(as_arrays(self.spec), self.net, data, pool, self.keys.run)

    def scorer(self, normaliser: Normaliser, interrupts: Interrupts) -> Scorer:
        """Return a scorer on the test images, or on the withheld images that replace them."""
        test = self.data.test_arrays()
        return Scorer(self.net, self.experiment.protocol, test, normaliser, self.keys.score, interrupts)

    @property
    def title(self) -> str:
        shape = "x".join(map(str, self.data.shape))
        return (
            f"{self.method} on {self.dataset} (recipe {self.recipe}): {len(self.data.x_train)} images {shape}, "
            f"{self.data.classes} classes, {self.spec.ipc} stored per class"
        ) + f"\n  {self.memory}" * bool(self.memory)

    @property
    def folder(self) -> str:
        """Default name of the workdir."""
        data = self.dataset if ":" not in self.dataset else Path(self.dataset.partition(":")[2]).stem
        return re.sub(r"[^\w.-]+", "_", f"{self.method}-{data}-ipc{self.spec.ipc}-seed{self.seed}")

    @property
    def part(self) -> dict[str, Any]:
        """The ``--subset`` for JSON files; empty if there is none, as in older files."""
        return {"subset": list(self.subset)} if self.subset else {}

    def describe(self) -> dict[str, Any]:
        """Return everything needed to repeat the run, ready for JSON."""
        return {
            "schema": 1,
            "method": self.method,
            "dataset": self.dataset,
            **self.part,
            "recipe": self.recipe,
            "seed": self.seed,
            "spec": to_json(self.spec),
            "protocol": to_json(self.experiment.protocol),
            "data": {
                "fingerprint": self.source.fingerprint,
                "shape": self.data.shape,
                "classes": self.data.classes,
                "withheld": self.data is not self.source and WITHHELD,
                **self.source.origin,
                **({"resident_images": self.resident} if self.resident else {}),
            },
            "versions": versions() | _own_sources(self.spec),
        }

    def describe_figures(self, **options: Any) -> dict[str, Any]:
        """Return the settings that a resumed run of ``distill`` may change, and ``options``, under another name, for
        runners whose figures depend on them and which keep figures of an earlier process."""
        spec, protocol = self.spec, self.experiment.protocol
        about = {"outer_steps": spec.outer_steps, "labels": to_json(spec.labels), "protocol": to_json(protocol)}
        return {"runs": {**about, **options}}

    def describe_pool(self) -> dict[str, Any]:
        """Return the properties that a pool must have for this run."""
        return {
            "net": to_json(self.spec.net),
            "shape": self.data.shape,
            "classes": self.data.classes,
            "data": self.data.fingerprint,
            "mean": self.spec.mean,
            "std": self.spec.std,
            "models": to_json(self.spec.models),
        }


def set_up(
    request: Request[Any],
    eval_every: int = 0,
    chunks: Mapping[str, Any] | None = None,
    parts: bool = False,
    resident: int | None = None,
) -> Setup:
    """Resolve ``request`` and check it against the data.

    ``chunks`` has the chunk sizes of a run to resume. ``parts`` allows ``--classes``. ``resident`` is the number of
    real images per class on the device (0: all), or None if the runner has no such option. Raise RequestError if the
    spec does not fit the data, or the run does not fit the device.
    """
    options, recipe, experiment, source = request
    data = source.withhold(WITHHELD, options.seed) if eval_every else source
    spec = experiment.spec
    if spec.classes and not parts:
        raise RequestError("only experiments.distill can distil some of the classes: leave out --classes")
    if resident and resident < spec.ipc:
        raise RequestError(f"resident_images is {resident}: give at least {spec.ipc} (--ipc), or 0 for all")
    check(spec, data.shape, [min(resident or count, count) for count in data.counts.tolist()], data.class_names)
    check_augmentations(experiment.protocol, data.shape, "protocol.")
    if chunks:
        sizes = {name: getattr(spec, name) or chunks.get(name, 0) for name in ("class_chunk", "model_chunk")}
        spec = replace(spec, **sizes)
    spec = with_chunks(spec, data.shape, data.classes, target())
    net = spec.net.build(data.shape, data.classes)
    experiment = replace(experiment, spec=spec)
    name, subset = options.dataset, options.subset or ()
    memory = check_fits(spec, data, resident)
    return Setup(
        options.method, name, recipe, options.seed, experiment, source, data, net, subset, memory, resident or 0
    )


def refuse_different(setup: Setup) -> None:
    """Raise RequestError, naming the field, if this host and the first host have different requests."""
    mine = json.loads(json.dumps(setup.describe()))
    first = hosts.broadcast(lambda: mine)
    differ = [name for name in mine if mine[name] != first.get(name)]
    if differ:
        raise RequestError(
            f"{', '.join(differ)} of this host is {json.dumps([mine[name] for name in differ])[1:-1]}, and "
            f"{json.dumps([first.get(name) for name in differ])[1:-1]} on the first: start all hosts with the same "
            "options, data and software"
        )


def versions() -> dict[str, str]:
    """Return the versions and flags that, besides configuration and processor, determine the bits of a run."""
    flags = os.environ.get("XLA_FLAGS", "")
    numbers = {"distill_jax": __version__, "jax": jax.__version__, "python": platform.python_version()}
    precision = jax.config.values["jax_default_matmul_precision"] or "default"
    return {**numbers, "devices": str(jax.device_count()), "xla_flags": flags, "matmul_precision": precision}


def _own_sources(spec: Spec) -> dict[str, str]:
    """Return a digest of each file that defines the user's own choices, by the name of the module."""
    classes = [type(getattr(spec, axis)) for axis in sorted(own_axes(spec))]
    return {
        own.__module__: f"sha256 {sha256(Path(inspect.getfile(own)).read_bytes()).hexdigest()[:12]}" for own in classes
    }
