"""Check a spec before a run: each number by itself, and whether its choices fit each other and the data."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, get_type_hints

from distill_jax import contracts
from distill_jax.axes.parameterisation import unbounded
from distill_jax.axes.selector import NoReal
from distill_jax.check_own import check_own
from distill_jax.spec import CHOICES, Spec
from distill_jax.types import Choice, RequestError, Shape

MAX_COUNT = 10**8
"""maximum of every integer in a spec"""


def validate(value: Choice, path: str = "") -> None:
    """Raise RequestError, naming the field, if a number in ``value`` or in a nested choice is invalid."""
    for field in fields(value):  # type: ignore[arg-type]
        part, name = getattr(value, field.name), path + field.name
        numbers = [x for x in (part if isinstance(part, tuple) else (part,)) if isinstance(x, float)]
        if isinstance(part, Choice):
            validate(part, f"{name}.")
        elif isinstance(part, list | dict | set) or getattr(part, "ndim", 0):
            raise RequestError(f"{name} is of type {type(part).__name__}: give a tuple instead")
        elif not all(map(math.isfinite, numbers)):
            raise RequestError(f"{name} is {part}: give finite numbers")
        elif isinstance(part, int) and part > MAX_COUNT:
            raise RequestError(f"{name} is {part}: give at most {MAX_COUNT}")
    try:
        value.validate()
    except RequestError as error:
        raise RequestError(_with_path(str(error), value, path)) from None
    except TypeError as error:  # a card that was edited by hand
        raise RequestError(f"{path[:-1] or 'spec'}: a value has the wrong type ({error}): give a number") from error


def require_type(kind: type, example: str, **given: Any) -> None:
    """Raise RequestError if an argument in ``given``, by name, is not of ``kind``; ``example`` says how to get one."""
    for name, value in given.items():
        if not isinstance(value, kind):
            raise RequestError(f"{name} is of type {type(value).__name__}: give {kind.__name__}, such as {example}")


def _with_path(message: str, value: Choice, path: str) -> str:
    """Return ``message``, which begins with the name of a field of ``value``, with the ``path`` to this field.

    A choice knows its axis at most, and not whether it is part of another choice. A user's message may begin otherwise.
    """
    field = message.removeprefix(f"{value.axis}.")
    names = {of.name for of in fields(value)}  # type: ignore[arg-type]
    return path + field if re.split(r"\W", field)[0] in names else message


def check(spec: Spec, shape: Shape, counts: list[int], names: Sequence[str] = ()) -> None:
    """Raise RequestError if ``spec`` is invalid or does not fit images of ``shape`` and classes of ``counts``.

    ``names`` are the names of the classes in messages; default: their numbers.
    """
    check_axes(spec)
    validate(spec)
    _check_classes(spec, len(counts))
    images_of_class = counts
    # Other classes do not limit the run, and keep their place so that messages name the right one.
    counts = [MAX_COUNT if spec.classes and c not in spec.classes else count for c, count in enumerate(counts)]
    if spec.parameterisation.space not in ("pixel", "normalised"):
        raise RequestError(f"parameterisation.space is {spec.parameterisation.space!r}: it must be pixel or normalised")
    if spec.ipc > (least := min(counts)):
        smallest = counts.index(least)
        name = names[smallest] if names else smallest
        raise RequestError(f"ipc is {spec.ipc}, but class {name} has fewer images ({least}): use --ipc {least} or less")
    if spec.mean and len(spec.mean) != shape[2]:
        raise RequestError(f"mean has {len(spec.mean)} numbers, images have {shape[2]} channels: give --mean as many")
    _check_targets(spec)
    _check_teachers(spec)
    _check_labels(spec)
    _check_pairs(spec)
    spec.parameterisation.check(shape)
    for part in (spec.selector, spec.init):
        part.check(counts, spec.ipc, spec.parameterisation.factor)
    check_augmentations(spec, shape)
    check_own(spec, shape, images_of_class)
    spec.objective.check(spec.net.build(shape, len(counts)), shape)


def check_axes(spec: Spec) -> None:
    """Raise RequestError if the choice on an axis is not one, such as a name or a class."""
    for axis, contract in get_type_hints(Spec).items():
        given = getattr(spec, axis)
        if axis in CHOICES and not isinstance(given, contract):
            named = CHOICES[axis].get(given) if isinstance(given, str) else given
            usual = [*CHOICES[axis].values()][-1]
            example = named if isinstance(named, type) and issubclass(named, contract) else type(usual())
            raise RequestError(f"{axis} is {given!r}: give {contract.__name__}, such as {example.__name__}()")


def check_augmentations(value: Choice, shape: Shape, path: str = "") -> None:
    """Raise RequestError, naming the field, if an augmentation in ``value`` does not suit images of ``shape``."""
    for field in fields(value):  # type: ignore[arg-type]
        part, name = getattr(value, field.name), path + field.name
        if isinstance(part, contracts.Augmentation):
            try:
                part.check(shape)
            except RequestError as error:
                raise RequestError(f"{name}: {error}") from None
        elif isinstance(part, Choice):
            check_augmentations(part, shape, f"{name}.")


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
    """Refuse an objective that lacks its targets or real images, and targets that the objective does not use."""
    models, objective = type(spec.models).__name__, type(spec.objective).__name__
    if spec.objective.uses_real and isinstance(spec.selector, NoReal):
        raise RequestError(
            f"objective {objective} uses real images, and selector NoReal selects none: use --selector random"
        )
    if spec.objective.needs_target and not spec.models.gives_target:
        raise RequestError(
            f"objective {objective} needs models with targets, and models {models} has none: "
            "use --models trajectories, early-stage with --models.ahead 2, or (only with --objective calibrated) "
            "interpolated with --models.trained"
        )
    if spec.models.gives_target and not spec.objective.needs_target:
        raise RequestError(
            f"models {models} has targets that objective {objective} does not use: "
            "use --objective trajectory or calibrated, or other models (--models early-stage without --models.ahead, "
            "or --models interpolated without --models.trained)"
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
    if spec.labels.learned and unbounded(spec.parameterisation) != spec.parameterisation:
        raise RequestError(
            "learned labels need all cells in a step: add --parameterisation.decode-type single, or use --labels hard"
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
