"""Spec: a method as one pytree with one choice on each axis. Also the registry of choices, JSON and checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, get_type_hints

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
from distill_jax.types import Choice, RequestError, Shape, choice, require_at_least, traced

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

MAX_COUNT = 10**8
"""maximum of every integer in a spec"""


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
            fits = parts.keys() <= {f.name for f in fields(value)} and None not in parts.values()
            return replace(value, **parts) if fits else None
    return None


def class_name(value: Any) -> str:
    """Return the name of the class of ``value``, as ``module:Class`` if it is not of this library."""
    kind = type(value)
    return kind.__name__ if kind.__module__.partition(".")[0] == "distill_jax" else f"{kind.__module__}:{kind.__name__}"


def own_axes(spec: Spec) -> set[str]:
    """Return the axes whose choice is of the user's own class, even if that inherits from a class of this library."""
    return {axis for axis in CHOICES if ":" in class_name(getattr(spec, axis))}


# ------------------------------------------------------------------ checks


def validate(value: Choice, path: str = "") -> None:
    """Raise RequestError, naming the field, if a number in ``value`` or in a nested choice is invalid."""
    for field in fields(value):  # type: ignore[arg-type]
        part, name = getattr(value, field.name), path + field.name
        if isinstance(part, Choice):
            validate(part, f"{name}.")
        elif isinstance(part, float) and not math.isfinite(part):
            raise RequestError(f"{name} is {part}: give a finite number")
        elif isinstance(part, int) and part > MAX_COUNT:
            raise RequestError(f"{name} is {part}: give at most {MAX_COUNT}")
    try:
        value.validate()
    except RequestError as error:
        # A choice that is on no axis does not know the name of its field.
        raise error if value.axis else RequestError(f"{path}{error}") from None
    except TypeError as error:  # a card that was edited by hand
        raise RequestError(f"{path[:-1] or 'spec'}: a value has the wrong type ({error}): give a number") from error


def check(spec: Spec, shape: Shape, counts: list[int]) -> None:
    """Raise RequestError if ``spec`` is invalid or does not fit images of ``shape`` and classes of ``counts``."""
    for axis, contract in get_type_hints(Spec).items():
        if axis in CHOICES and not isinstance(getattr(spec, axis), contract):
            raise RequestError(f"{axis} is {getattr(spec, axis)!r}: give a choice of this axis ({contract.__name__})")
    validate(spec)
    if spec.parameterisation.space not in ("pixel", "normalised"):
        raise RequestError(f"parameterisation.space is {spec.parameterisation.space!r}: it must be pixel or normalised")
    if spec.ipc > min(counts):
        raise RequestError(
            f"ipc is {spec.ipc}, but class {counts.index(min(counts))} has only {min(counts)} images: "
            f"use --ipc {min(counts)} or less"
        )
    if spec.mean and len(spec.mean) != shape[2]:
        raise RequestError(f"mean has {len(spec.mean)} numbers, images have {shape[2]} channels: give --mean as many")
    _check_classes(spec, len(counts))
    _check_targets(spec)
    _check_teachers(spec)
    _check_labels(spec)
    _check_pairs(spec)
    spec.parameterisation.check(shape)
    for part in (spec.selector, spec.init):
        part.check(counts, spec.ipc, spec.parameterisation.factor)
    spec.objective.check(spec.net.build(shape, len(counts)), shape)


def _check_classes(spec: Spec, classes: int) -> None:
    """Refuse unknown classes, and methods that cannot distil some of the classes alone."""
    if spec.classes and max(spec.classes) >= classes:
        raise RequestError(f"class {max(spec.classes)} of --classes does not exist: classes go from 0 to {classes - 1}")
    if spec.classes and isinstance(spec.objective, contracts.SetObjective):
        raise RequestError(f"objective {type(spec.objective).__name__} needs all classes at once: leave out --classes")
    if spec.classes and spec.update.uses_synthetic:
        raise RequestError(
            f"update {type(spec.update).__name__} trains on the images of all classes: leave out --classes, "
            "or use --update real"
        )
    if spec.classes and spec.labels.from_teachers:
        raise RequestError("soft labels cover all classes: use --labels hard with --classes")


def _check_targets(spec: Spec) -> None:
    """Refuse an objective that lacks its targets, and targets that the objective does not use."""
    models, objective = type(spec.models).__name__, type(spec.objective).__name__
    if spec.objective.needs_target and not spec.models.gives_target:
        raise RequestError(
            f"objective {objective} needs models with targets, and models {models} has none: "
            "use --models trajectories, early-stage with --models.ahead 2, or interpolated with --models.trained"
        )
    if spec.models.gives_target and not spec.objective.needs_target:
        raise RequestError(
            f"models {models} has targets that objective {objective} does not use: "
            "use --objective trajectory or calibrated, or other models (--models early-stage, or --models interpolated "
            "without --models.trained)"
        )


def _check_teachers(spec: Spec) -> None:
    """Refuse choices that need trained networks if the model source trains none."""
    users = (
        (spec.init.uses_teacher, f"init {type(spec.init).__name__}", "--init random"),
        (spec.selector.paired, f"selector {type(spec.selector).__name__}", "--selector random"),
        (spec.labels.from_teachers, "labels soft", "--labels hard"),
        (spec.labels.init_uses_teachers, "labels.start teachers", "--labels.start class"),
    )
    for needs_teacher, name, instead in () if spec.models.size else users:
        if needs_teacher:
            raise RequestError(
                f"{name} needs a trained network, and models {type(spec.models).__name__} trains none: "
                f"add --models early-stage, or use {instead}"
            )


def _check_labels(spec: Spec) -> None:
    """Refuse learned labels that the objective does not use, or that a step would use only in part."""
    if spec.labels.learned and not spec.objective.uses_labels:
        raise RequestError(
            f"objective {type(spec.objective).__name__} does not use labels: use --objective trajectory, "
            "or --labels hard"
        )
    if spec.labels.learned and spec.syn_batch:
        raise RequestError(
            "learned labels need all images of a class in a step: add --syn-batch 0, or use --labels hard"
        )


def _check_pairs(spec: Spec) -> None:
    """Refuse a paired objective without pairs."""
    if spec.objective.paired and not spec.selector.paired:
        raise RequestError(
            f"objective {type(spec.objective).__name__} compares pairs of images, and selector "
            f"{type(spec.selector).__name__} selects no pairs: use --selector anchors, or --objective feature"
        )
    cells = spec.ipc * spec.parameterisation.factor**2
    if spec.objective.paired and (spec.parameterisation.decoded(spec.ipc) != cells or spec.syn_batch):
        raise RequestError(
            "pairs need all decoded images, in order: use --parameterisation.decode-type single and --syn-batch 0"
        )


def as_arrays(spec: Spec) -> Spec:
    """Convert every number to a float32 array, and ``outer_steps`` to int32, so that ``jit`` compiles specs of equal
    structure once."""
    return replace(jax.tree.map(jnp.float32, spec), outer_steps=jnp.int32(spec.outer_steps))
