"""Spec: a method as one pytree, a choice on every axis; the registry of names; to and from JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

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
from distill_jax.types import Choice, RequestError, Shape, choice, require_at_least

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
"""The axes, and the choices on each that have a name on the command line."""

MAX_COUNT = 10**8
"""no count in a spec is larger"""


@choice
class Spec(Choice):
    """A method. Two specs of equal structure share one compiled program, whatever their numbers."""

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
    """I: stored images per class"""
    outer_steps: int = 400
    """outer iterations: fresh models each; 0 leaves the images as they were initialised"""
    inner_steps: int = 100
    """image updates per outer iteration"""
    live: int = 1
    """K: models that live in an outer iteration; the matching loss is their mean"""
    mean: tuple[float, ...] = ()
    """of pixels in [0, 1], each channel, that images are normalised with; empty: that of the training images"""
    std: tuple[float, ...] = ()
    """the deviation likewise"""
    classes: tuple[int, ...] = ()
    """numbers of the classes whose images are made, of a data set whose networks know all; empty: all"""
    syn_batch: int = 128
    """decoded images per class that a step shows at most, a random subset where there are more; 0: all"""
    class_chunk: int = 0
    """classes visited at once; 0: chosen for the device, from the size of what is shown. Changes speed and memory, not
    the result"""
    model_chunk: int = 0
    """live models visited at once; 0: chosen for the device"""

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
        """Inner steps of the whole run."""
        return self.outer_steps * self.inner_steps


# ------------------------------------------------------------------ JSON


def to_json(value: Any) -> Any:
    """A choice and those in it as nested dicts with the names of their classes, ready for JSON."""
    if not is_dataclass(value):
        return value
    return {"choice": type(value).__name__, **{f.name: to_json(getattr(value, f.name)) for f in fields(value)}}


def from_json(description: Any, *others: Any) -> Any:
    """The inverse of ``to_json`` for choices that have a name on the command line, and for the classes of ``others``.

    Returns None for anything else: a user's own class, or a description that another program wrote.
    """
    if not isinstance(description, Mapping):
        return tuple(description) if isinstance(description, list) else description
    known = [make() for choices in CHOICES.values() for make in choices.values()] + list(others)
    for value in known:
        if type(value).__name__ == description.get("choice"):
            parts = {name: from_json(part, *others) for name, part in description.items() if name != "choice"}
            fits = parts.keys() <= {f.name for f in fields(value)} and None not in parts.values()
            return replace(value, **parts) if fits else None
    return None


# ------------------------------------------------------------------ checks


def validate(value: Choice, path: str = "") -> None:
    """Raise RequestError, naming the field, where a number in ``value`` or in a choice within it makes no sense."""
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
        # What stands on no axis does not know what it is called.
        raise error if value.axis else RequestError(f"{path}{error}") from None
    except TypeError as error:  # a card that was edited by hand
        raise RequestError(f"{path[:-1] or 'spec'}: a value has the wrong type ({error}): give a number") from error


def check(spec: Spec, shape: Shape, counts: list[int]) -> None:
    """Refuse, before any work, a spec that makes no sense or does not fit images of ``shape`` or classes of
    ``counts``."""
    validate(spec)
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
    """Refuse a part of the classes that is not there, or that cannot be made without the others."""
    if spec.classes and max(spec.classes) >= classes:
        raise RequestError(f"class {max(spec.classes)} of --classes is not there: classes go from 0 to {classes - 1}")
    if spec.classes and isinstance(spec.objective, contracts.SetObjective):
        raise RequestError(f"objective {type(spec.objective).__name__} needs all classes at once: leave out --classes")
    if spec.classes and spec.update.uses_synthetic:
        raise RequestError(
            f"update {type(spec.update).__name__} trains on the images of all classes: leave out --classes, "
            "or use --update real"
        )
    if spec.classes and spec.labels.from_teachers:
        raise RequestError("soft labels are those of all classes: use --labels hard with --classes")


def _check_targets(spec: Spec) -> None:
    """Refuse an objective without the targets that it needs, and targets that no objective needs."""
    models, objective = type(spec.models).__name__, type(spec.objective).__name__
    if spec.objective.needs_target and not spec.models.gives_target:
        raise RequestError(
            f"objective {objective} needs models with targets, and models {models} has none: "
            "use --models trajectories, early-stage with --models.ahead 2, or interpolated with --models.trained"
        )
    if spec.models.gives_target and not spec.objective.needs_target:
        raise RequestError(
            f"models {models} has targets that objective {objective} does not use: "
            "use --objective trajectory or calibrated, or leave out --models.ahead or --models.trained"
        )


def _check_teachers(spec: Spec) -> None:
    """Refuse what looks at trained networks where there are none."""
    looking = (
        (spec.init.uses_teacher, f"init {type(spec.init).__name__}", "--init random"),
        (spec.selector.paired, f"selector {type(spec.selector).__name__}", "--selector random"),
        (spec.labels.from_teachers, "labels soft", "--labels hard"),
        (spec.labels.init_uses_teachers, "labels.start teachers", "--labels.start class"),
    )
    for looks, what, instead in () if spec.models.size else looking:
        if looks:
            raise RequestError(
                f"{what} needs a trained network, and models {type(spec.models).__name__} trains none: "
                f"add --models early-stage, or use {instead}"
            )


def _check_labels(spec: Spec) -> None:
    """Refuse learned labels that the objective does not use, or that only some images of a class would have."""
    if spec.labels.learned and not spec.objective.uses_labels:
        raise RequestError(
            f"objective {type(spec.objective).__name__} does not look at labels: use --objective trajectory, "
            "or --labels hard"
        )
    if spec.labels.learned and spec.syn_batch:
        raise RequestError("learned labels go with all images of a class: add --syn-batch 0, or use --labels hard")


def _check_pairs(spec: Spec) -> None:
    """Refuse a paired objective without pairs."""
    if spec.objective.paired and not spec.selector.paired:
        raise RequestError(
            f"objective {type(spec.objective).__name__} compares image with image, and selector "
            f"{type(spec.selector).__name__} has no pairs: use --selector anchors, or --objective feature"
        )
    cells = spec.ipc * spec.parameterisation.factor**2
    if spec.objective.paired and (spec.parameterisation.decoded(spec.ipc) != cells or spec.syn_batch):
        raise RequestError(
            "pairs need every decoded image in its place: use --parameterisation.decode-type single and --syn-batch 0"
        )


def as_arrays(spec: Spec) -> Spec:
    """The spec as ``jit`` takes it: every number a float32 array, so that equal structures are one program."""
    return jax.tree.map(jnp.float32, spec)
