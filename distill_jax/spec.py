"""Spec: a method's choice on every axis, validated. Hyper: the numbers that change no shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from distill_jax.augment import NoAugment, Siamese
from distill_jax.models import EarlyStagePool, ExpertTrajectories, RandomInit
from distill_jax.nets import ARCHITECTURES, ConvNet
from distill_jax.objectives import FeatureMatching, GradientMatching, LayerwiseAlignment, TrajectoryMatching
from distill_jax.select import Herding, KCenter, KMeansInit, NoReal, RandomBatch, Representative
from distill_jax.synthetic import Mix, MultiFormation, Noise, Pixels, RandomReal
from distill_jax.types import (
    Architecture,
    Array,
    Augmentation,
    ChecksCounts,
    ChecksNet,
    Initialisation,
    ModelSource,
    ModelUpdate,
    Objective,
    Parameterisation,
    RequestError,
    Selector,
)
from distill_jax.update import DynamicTraining, Frozen, TrainOnReal, TrainOnSynthetic

CHOICES: dict[str, Mapping[str, Callable[[], Any]]] = {
    "models": {"random": RandomInit, "early-stage": EarlyStagePool, "trajectories": ExpertTrajectories},
    "selector": {"random": RandomBatch, "representative": Representative, "none": NoReal},
    "parameterisation": {"pixels": Pixels, "multi-formation": MultiFormation},
    "augment": {"none": NoAugment, "siamese": Siamese},
    "objective": {
        "gradient": GradientMatching,
        "feature": FeatureMatching,
        "alignment": LayerwiseAlignment,
        "trajectory": TrajectoryMatching,
    },
    "update": {"none": Frozen, "real": TrainOnReal, "synthetic": TrainOnSynthetic, "dynamic": DynamicTraining},
    "init": {
        "random": RandomReal,
        "mix": Mix,
        "noise": Noise,
        "kmeans": KMeansInit,
        "herding": Herding,
        "kcenter": KCenter,
    },
    "net": ARCHITECTURES,
}
"""The axes, and the choices on each that have a name on the command line."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Hyper:
    """Numbers that change no shapes: traced under ``jit``; stacked on a leading axis, a sweep is one program."""

    syn_lr: float = 5e-3
    """learning rate of the synthetic images"""
    syn_momentum: float = 0.5
    model_lr: float = 0.01
    """learning rate of live and pool models"""
    model_momentum: float = 0.9
    model_weight_decay: float = 5e-4
    perturb_min: float = 0.01
    """smallest step along a random direction; the bound used is min(perturb_min, perturb_max)"""
    perturb_max: float = 0.09
    """largest step along a random direction, relative to the filters' norms; 0 turns perturbation off"""
    rate: float = 0.01
    """first value of the learnable learning rate (trajectory matching)"""
    rate_lr: float = 1e-5
    """learning rate of the learnable rate"""
    rate_momentum: float = 0.5
    align_pooled: float = 1.0
    """weight of the deepest block after its pooling (CAFE's first; the embedding adds another 1)"""
    align_deep: float = 1.0
    """weight of the deepest block before its pooling (CAFE's second)"""
    align_middle: float = 0.1
    """weight of the block before that (CAFE's third)"""
    align_shallow: float = 0.1
    """weight of every block in front of those (CAFE's fourth)"""
    align_discrimination: float = 0.01
    """weight of telling real images apart by the synthetic class centres (CAFE)"""
    watch_flat: float = 0.04
    """the image phase ends where ten readings of the accuracy lie closer together than this (CAFE's lambda 1)"""
    watch_moved: float = 0.03
    """a network phase ends where ten readings of the accuracy lie further apart than this (CAFE's lambda 2)"""


@dataclass(frozen=True)
class Spec:
    """What program to build. Compared and hashed by value: two equal specs compile once."""

    models: ModelSource = EarlyStagePool(perturb=True)
    selector: Selector = RandomBatch()
    parameterisation: Parameterisation = MultiFormation()
    augment: Augmentation = Siamese("color_crop_cutout")
    objective: Objective = GradientMatching()
    update: ModelUpdate = TrainOnReal()
    init: Initialisation = Mix()
    net: Architecture = ConvNet()
    ipc: int = 1
    """I: stored images per class"""
    outer_steps: int = 400
    """outer iterations: fresh models each; 0 leaves the images as they were initialised"""
    inner_steps: int = 100
    """image updates per outer iteration"""
    halve_at: tuple[float, ...] = ()
    """shares of the run after which the learning rate of the images is halved (CAFE)"""
    turns: str = "sequential"
    """one image step per class in turn, as IDC does, or one joint step for all classes, as DC does"""
    syn_batch: int = 128
    """decoded images per class that a step shows at most, a random subset where there are more; 0: all"""
    class_chunk: int = 0
    """classes visited at once; 0: chosen for the backend. Changes speed and memory, not the result"""
    model_chunk: int = 0
    """live models visited at once; 0: chosen for the backend"""

    def __post_init__(self) -> None:
        if self.ipc < 1:
            raise RequestError(f"ipc is {self.ipc}: at least 1 image per class is needed")
        for name, least in (("outer_steps", 0), ("inner_steps", 1)):
            if getattr(self, name) < least:
                raise RequestError(f"{name} is {getattr(self, name)}: it must be at least {least}")
        for name in ("syn_batch", "class_chunk", "model_chunk"):
            if getattr(self, name) < 0:
                raise RequestError(f"{name} is {getattr(self, name)}: it must be 0 (automatic) or more")
        if not all(0 <= share <= 1 for share in self.halve_at):
            raise RequestError(f"halve_at is {self.halve_at}: it takes shares of the run, from 0 to 1")
        if self.turns not in ("sequential", "joint"):
            raise RequestError(f"turns {self.turns!r} is unknown: choose sequential or joint")

    @property
    def steps(self) -> int:
        """Inner steps of the whole run."""
        return self.outer_steps * self.inner_steps

    def syn_rate(self, rate: float | Array, step: Array) -> float | Array:
        """The learning rate of the images in inner step ``step`` of the run, which begins with ``rate``."""
        for share in self.halve_at:
            rate = rate * jnp.where(step < round(share * self.outer_steps) * self.inner_steps, 1.0, 0.5)
        return rate

    def describe(self) -> dict[str, object]:
        """A nested dict of every choice and its fields, ready for JSON."""
        return {f.name: described(getattr(self, f.name)) for f in fields(self)}


def described(value: Any) -> Any:
    """A dataclass and those in it as nested dicts with the names of their classes, ready for JSON."""
    if not is_dataclass(value):
        return value
    return {"choice": type(value).__name__, **{f.name: described(getattr(value, f.name)) for f in fields(value)}}


def check(spec: Spec, shape: tuple[int, int, int], counts: list[int]) -> None:
    """Refuse, before any work, a spec that does not fit images of ``shape`` (H, W, c) or classes of ``counts``."""
    if spec.ipc > min(counts):
        raise RequestError(
            f"ipc is {spec.ipc}, but class {counts.index(min(counts))} has only {min(counts)} images: "
            f"use --ipc {min(counts)} or less"
        )
    _check_targets(spec)
    spec.parameterisation.check(shape)
    for choice in (spec.selector, spec.init):
        if isinstance(choice, ChecksCounts):
            choice.check(counts, spec.ipc, spec.parameterisation.factor)
    net = spec.net.build(shape, len(counts))
    if isinstance(spec.objective, ChecksNet):
        spec.objective.check(net, shape)


def _check_targets(spec: Spec) -> None:
    """Refuse an objective without the targets that it needs, and targets that no objective needs."""
    models, objective = type(spec.models).__name__, type(spec.objective).__name__
    gives, needs = getattr(spec.models, "gives_target", False), getattr(spec.objective, "needs_target", False)
    if needs and not gives:
        raise RequestError(
            f"objective {objective} leads models to targets, and models {models} has none: "
            "use --models trajectories, or early-stage with --models.ahead 2"
        )
    if gives and not needs:
        raise RequestError(
            f"models {models} has targets that objective {objective} does not use: "
            "use --objective trajectory, or --models early-stage without --models.ahead"
        )


def with_chunks(spec: Spec, classes: int, backend: str) -> Spec:
    """The spec with automatic chunk sizes resolved: 1 on CPU (fastest, least memory), all at once elsewhere."""
    whole = backend != "cpu"
    class_chunk = spec.class_chunk or (classes if whole else 1)
    model_chunk = spec.model_chunk or (spec.models.live if whole else 1)
    return replace(spec, class_chunk=class_chunk, model_chunk=model_chunk)
