"""Spec: a method as one pytree with one choice on each axis. Also the registry of choices, and JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax import contracts
from distill_jax.augment import NoAugment, Siamese
from distill_jax.augment_photos import BasicAugment, PhotoAugment
from distill_jax.axes.init import (
    AnchorMosaics,
    CorrectlyClassified,
    Herding,
    KCenter,
    KMeansInit,
    Mix,
    Noise,
    RandomReal,
    RealPatches,
)
from distill_jax.axes.labels import HardLabels, LearnedLabels, SoftLabels
from distill_jax.axes.models import EarlyStagePool, ExpertTrajectories, InterpolatedPool, RandomInit
from distill_jax.axes.objective import (
    CalibratedCharacteristic,
    CharacteristicFunction,
    FeatureMatching,
    GradientMatching,
    LayerwiseAlignment,
    PairedFeatures,
    TrajectoryMatching,
    TruncatedBackprop,
)
from distill_jax.axes.optimiser import SGD, Adam, ClassByClassAdam, ClassByClassSGD, ClippedAdam, ResidualAdam
from distill_jax.axes.parameterisation import MultiFormation, Pixels
from distill_jax.axes.perturb import Directions, NoPerturbation
from distill_jax.axes.selector import Anchors, NoReal, RandomBatch, Representative
from distill_jax.axes.update import DynamicTraining, Frozen, TrainOnReal, TrainOnSynthetic
from distill_jax.nets import ARCHITECTURES, ConvNet
from distill_jax.types import Choice, RequestError, choice, require_at_least, traced

CHOICES: dict[str, Mapping[str, Callable[[], Any]]] = {
    "models": {
        "random": RandomInit, "early-stage": EarlyStagePool, "trajectories": ExpertTrajectories,
        "interpolated": InterpolatedPool},
    "perturb": {"none": NoPerturbation, "directions": Directions},
    "selector": {"random": RandomBatch, "representative": Representative, "anchors": Anchors, "none": NoReal},
    "parameterisation": {"pixels": Pixels, "multi-formation": MultiFormation},
    "labels": {"hard": HardLabels, "soft": SoftLabels, "learned": LearnedLabels},
    "augment": {"none": NoAugment, "siamese": Siamese, "photos": PhotoAugment, "basic": BasicAugment},
    "objective": {
        "gradient": GradientMatching, "feature": FeatureMatching, "alignment": LayerwiseAlignment,
        "trajectory": TrajectoryMatching, "characteristic": CharacteristicFunction,
        "calibrated": CalibratedCharacteristic, "unrolled": TruncatedBackprop, "paired": PairedFeatures,
    },
    "optimiser": {
        "class-by-class": ClassByClassSGD, "class-by-class-adam": ClassByClassAdam, "sgd": SGD, "adam": Adam,
        "clipped-adam": ClippedAdam, "residual-adam": ResidualAdam,
    },
    "update": {"none": Frozen, "real": TrainOnReal, "synthetic": TrainOnSynthetic, "dynamic": DynamicTraining},
    "init": {
        "random": RandomReal, "mix": Mix, "noise": Noise, "correct": CorrectlyClassified, "kmeans": KMeansInit,
        "herding": Herding, "kcenter": KCenter, "rded": RealPatches, "anchors": AnchorMosaics,
    },
    "net": ARCHITECTURES,
}  # fmt: skip
"""The axes, and the choices on each axis that have a name on the command line."""


@choice
class Spec(Choice):
    """A method. Specs of equal structure share one compiled program, whatever their numbers."""

    models: contracts.ModelSource = EarlyStagePool()
    perturb: contracts.Perturbation = Directions()
    selector: contracts.Selector = RandomBatch()
    parameterisation: contracts.Parameterisation = MultiFormation()
    labels: contracts.Labels = HardLabels()
    augment: contracts.Augmentation = Siamese("color_crop_cutout")
    objective: contracts.Objective = GradientMatching()
    optimiser: contracts.Optimiser = ClassByClassSGD()
    update: contracts.ModelUpdate = TrainOnReal()
    init: contracts.Initialisation = Mix()
    net: contracts.Architecture = ConvNet()
    ipc: int = 1
    """I: number of stored images per class"""
    outer_steps: int = traced(default=400)
    """number of outer iterations, each with new models; 0: keep the initial images"""
    inner_steps: int = 100
    """number of image updates per outer iteration"""
    live: int = 1
    """K: number of models in an outer iteration; the matching loss is the mean over them"""
    mean: tuple[float, ...] = ()
    """mean of pixels in [0, 1] per channel, for normalisation; empty: mean of the training images"""
    std: tuple[float, ...] = ()
    """standard deviation of pixels per channel, for normalisation; empty: that of the training images"""
    classes: tuple[int, ...] = ()
    """classes to distil, by number; networks still classify all classes. Empty: all classes"""
    syn_batch: int = 128
    """maximum number of decoded images per class in a step, drawn at random if there are more; 0: no maximum"""
    class_chunk: int = 0
    """number of classes visited at once; 0: automatic. Affects speed and memory, not the result"""
    model_chunk: int = 0
    """number of live models visited at once; 0: automatic. Affects speed and memory, not the result"""

    def validate(self) -> None:
        if self.ipc < 1:
            raise RequestError(f"ipc is {self.ipc}: at least 1 image per class is needed")
        require_at_least(1, self, "inner_steps", "live")
        require_at_least(0, self, "outer_steps")
        require_at_least(0, self, "syn_batch", zero="all")
        require_at_least(0, self, "class_chunk", "model_chunk", zero="automatic")
        if len(self.mean) != len(self.std) or any(s <= 0 for s in self.std):
            raise RequestError("mean and std go together: give --mean and --std one number per channel, std above 0")
        if len(set(self.classes)) < len(self.classes) or any(c < 0 for c in self.classes):
            raise RequestError(f"classes are {' '.join(map(str, self.classes))}: give each number once, from 0")

    @property
    def steps(self) -> int:
        """Number of inner steps of the whole run, which is the same at all points of a sweep."""
        return int(np.max(self.outer_steps)) * self.inner_steps


# ------------------------------------------------------------------ JSON


def to_json(value: Any) -> Any:
    """Convert a choice, and the choices nested in it, to dicts that name their classes (``class_name``)."""
    if not is_dataclass(value):
        return value
    return {"choice": class_name(value), **{f.name: to_json(getattr(value, f.name)) for f in fields(value)}}


def from_json(description: Any, *others: Any) -> Any:
    """The inverse of ``to_json`` for choices that have a name on the command line, and for the classes of ``others``.

    Returns None for anything else: a user's own class, or a description that another program wrote.
    """
    if not isinstance(description, Mapping):
        return tuple(description) if isinstance(description, list) else description
    known = [make() for choices in CHOICES.values() for make in choices.values()] + list(others)
    for value in known:
        if class_name(value) == description.get("choice"):
            parts = {name: from_json(part, *others) for name, part in description.items() if name != "choice"}
            known_fields = parts.keys() <= {f.name for f in fields(value)}
            readable = all(part is not None or description[name] is None for name, part in parts.items())
            return replace(value, **parts) if known_fields and readable else None
    return None


def class_name(value: Any) -> str:
    """Return the name of the class of ``value``, as ``module:Class`` if it is not of this library."""
    kind = type(value)
    return kind.__name__ if kind.__module__.partition(".")[0] == "distill_jax" else f"{kind.__module__}:{kind.__name__}"


def own_axes(spec: Spec) -> set[str]:
    """Return the axes whose choice is of the user's own class, even if that inherits from a class of this library."""
    return {axis for axis in CHOICES if ":" in class_name(getattr(spec, axis))}


def as_arrays(spec: Spec) -> Spec:
    """Convert every number to a float32 array, and ``outer_steps`` to int32, so that ``jit`` compiles specs of equal
    structure once."""
    return replace(jax.tree.map(jnp.float32, spec), outer_steps=jnp.int32(spec.outer_steps))
