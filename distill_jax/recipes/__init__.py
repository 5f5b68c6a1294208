"""Recipes: the papers' settings for each data set, one file each; ``resolve`` applies one to a method's preset.

from distill_jax.recipes import resolve
experiment = resolve("acc_dd", "cifar10", ipc=10)     # .spec, .protocol

A recipe is a function ``(ipc, shape, factor) -> [{scope: {path: value}}, ...]``; later entries override earlier ones.
``scope`` is a space-separated list of methods, of protocols (``@idc``: every method scored by it), or ``*`` for all.
``path`` leads into Spec, or into Protocol if it starts with ``protocol``. If the user replaced the choice on an axis, a
path that the new choice lacks is skipped. A path that no choice on the axis has is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib import import_module
from typing import Any

from distill_jax.augment import Siamese
from distill_jax.check_spec import check_axes
from distill_jax.data import READ_HERE
from distill_jax.evaluation import IDC_PROTOCOL, PROTOCOLS, Protocol
from distill_jax.methods import PRESETS, PROTOCOL_OF
from distill_jax.nets import ConvNet
from distill_jax.spec import CHOICES, Spec, class_name
from distill_jax.types import Choice, RequestError, lookup

Overrides = Sequence[Mapping[str, Mapping[str, Any]]]
Recipe = Callable[[int, tuple[int, int, int], int], Overrides]

RECIPES = (
    "cifar10", "cifar100", "mnist", "fashion_mnist", "svhn", "tiny", "imagenet10", "imagenet100",
    "imagenet_subset", "digits", "generic",
)  # fmt: skip
"""names of the recipe files of this package"""

RECIPE_OF = {
    "digits": "digits",
    "cifar10": "cifar10",
    "cifar100": "cifar100",
    "mnist": "mnist",
    "fashion_mnist": "fashion_mnist",
    "svhn_cropped": "svhn",
    "imagenette": "imagenet10",
    "imagenet2012": "imagenet100",
}
RECIPE_OF |= {f"zca:{name}": recipe for name, recipe in RECIPE_OF.items()}
"""recipe that each named data set implies; all other sources use ``generic`` by default"""

IDC_FAMILY = "idc acc_dd dream dream_acc_dd"
DREAMS = "dream dream_acc_dd"

DC_LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}


@dataclass(frozen=True)
class Experiment:
    """The settings that are fixed before data is read: what to run, and how to score the result."""

    spec: Spec
    protocol: Protocol = IDC_PROTOCOL


def resolve(
    method: str,
    recipe: str = "generic",
    *,
    ipc: int = 1,
    shape: tuple[int, int, int] = (32, 32, 3),
    factor: int | None = None,
    axes: Mapping[str, Any] | None = None,
    protocol: str | None = None,
) -> Experiment:
    """Return the preset ``method`` with the recipe's settings for ``ipc`` images per class of ``shape`` (H, W, c).

    ``recipe`` is one of RECIPES, or a data set: a name implies its recipe, and ``npz:PATH`` and the like ``generic``.
    ``axes`` replaces choices, e.g. ``{"perturb": Directions()}``. The recipe sets only those of their numbers that have
    the default of their class, and no number of the user's own classes. ``protocol`` is one of PROTOCOLS, by default
    the method's own. Raise RequestError for an unknown method, recipe, axis or protocol, with the nearest known
    name, and for a choice that is a name or a class.
    """
    for axis in axes or {}:
        lookup("axis", axis, CHOICES)
    spec = replace(lookup("method", method, PRESETS), ipc=ipc, **(axes or {}))
    check_axes(spec)
    scoring = PROTOCOL_OF.get(method, IDC_PROTOCOL) if protocol is None else lookup("protocol", protocol, PROTOCOLS)
    experiment = apply(method, Experiment(spec, scoring), common(shape))
    make = recipe_named(recipe)
    initial_factor = experiment.spec.parameterisation.factor if factor is None else factor
    given = {axis: (ours, getattr(PRESETS[method], axis)) for axis, ours in (axes or {}).items()}
    experiment = _with_given(apply(method, experiment, make(ipc, shape, initial_factor)), given)
    if factor is None and experiment.spec.parameterisation.factor != initial_factor:
        # The recipe changed the factor of the preset, and its other settings may depend on the factor.
        again = make(ipc, shape, experiment.spec.parameterisation.factor)
        experiment = _with_given(apply(method, experiment, again), given)
    if factor is not None:
        experiment = apply(method, experiment, [{"*": {"parameterisation.factor": factor}}])
        if experiment.spec.parameterisation.factor != factor:
            raise RequestError(
                f"{method} stores plain images: add --parameterisation multi-formation for --factor {factor}"
            )
    if experiment.spec.selector.paired:
        pairs = experiment.spec.parameterisation.decoded(ipc)
        experiment = apply(method, experiment, [{"*": {"selector.batch": pairs}}])
    if len(experiment.spec.mean) != shape[2]:  # the user's own images have other channels
        experiment = apply(method, experiment, [{"*": normalised((), ())}])
    return experiment


def _with_given(experiment: Experiment, given: Mapping[str, tuple[Any, Any]]) -> Experiment:
    """Return ``experiment`` after a recipe, with the choices of the user, ``given`` with the preset's choice by axis.

    A recipe replaces no choice of the user, and no number of it that is neither the default of its class nor the
    preset's. It does not know classes from outside the library, so they keep all their numbers.
    """
    kept: dict[str, Any] = {}
    for axis, (ours, preset) in given.items():
        now = getattr(experiment.spec, axis)
        if type(now) is not type(ours) or ":" in class_name(ours):
            kept[axis] = ours
            continue
        usual = preset if type(preset) is type(ours) else type(ours)()
        numbers = {f.name: getattr(ours, f.name) for f in fields(ours)}
        kept[axis] = replace(now, **{name: of for name, of in numbers.items() if of != getattr(usual, name)})
    return replace(experiment, spec=replace(experiment.spec, **kept))


def recipe_named(name: str) -> Recipe:
    """Return the recipe ``name``, or that of the data set ``name``. Raise RequestError for an unknown name, with the
    nearest known one."""
    name = "generic" if name.removeprefix("zca:").partition(":")[0] in READ_HERE else RECIPE_OF.get(name, name)
    module = import_module(f"distill_jax.recipes.{lookup('recipe', name, {known: known for known in RECIPES})}")
    return module.recipe


def apply(method: str, experiment: Experiment, overrides: Overrides) -> Experiment:
    """Return ``experiment`` with the overrides that apply to ``method`` or its protocol, if its choices have the path.

    Raise KeyError for a method, a protocol or a path that does not exist: the recipe has a typo.
    """
    for methods, values in ((methods, values) for part in overrides for methods, values in part.items()):
        known = {"*", *PRESETS, *(f"@{name}" for name in PROTOCOLS)}
        unknown = [name for name in methods.split() if name not in known]
        if unknown:
            raise KeyError(f"a recipe names the unknown scope {unknown[0]}: choose from {' '.join(sorted(known))}")
        applies = {"*", method, f"@{experiment.protocol.name}"} & set(methods.split())
        for path, value in values.items():
            if not _exists(path):
                raise KeyError(f"a recipe sets {path}, which no choice has")
            if applies:
                full = path if path.partition(".")[0] == "protocol" else f"spec.{path}"
                experiment = replaced(experiment, full.split("."), value)
    return experiment


def replaced(node: Any, path: Sequence[str], value: Any) -> Any:
    """Return ``node`` with ``value`` at ``path``, or ``node`` unchanged if it has no such field."""
    head, *rest = path
    if head not in {f.name for f in fields(node)}:
        return node
    return replace(node, **{head: replaced(getattr(node, head), rest, value) if rest else value})


@cache
def _exists(path: str) -> bool:
    """Return whether any choice has a field at ``path``."""
    head, *rest = path.split(".")
    nodes: list[Any] = [Protocol()] if head == "protocol" else [Spec()]
    if head in CHOICES and rest:
        nodes = [make() for make in CHOICES[head].values()]
    elif head != "protocol":
        rest = [head, *rest]
    for name in rest:
        nodes = [getattr(node, name) for node in nodes if name in {f.name for f in fields(node)}]
        if not nodes:
            return False
        nodes = [node for node in nodes if isinstance(node, Choice)] or nodes[:1]
    return True


# ------------------------------------------------------------------ helpers for recipes


def common(shape: tuple[int, int, int]) -> Overrides:
    """Return the settings that all recipes share: a ConvNet that leaves 4 pixels per side, as in all papers."""
    side = 32 if shape == (28, 28, 1) else min(shape[:2])  # the first convolution pads MNIST's images
    depth = max(1, min(6, (side // 4).bit_length() - 1))
    return [{"*": {"net": ConvNet(depth=depth)}}]


def idc_rate(ipc: int, side: int, reference: int = 32) -> float:
    """Return the factor on IDC's base learning rate: ipc / 10, times the area relative to the reference side's."""
    return ipc / 10 * (side / reference) ** 2


def nearest(table: Mapping[int, Any], ipc: int) -> Any:
    """Return the entry for the nearest published ipc."""
    return table[min(table, key=lambda known: abs(known - ipc))]


def dc_loops(ipc: int) -> dict[str, int]:
    """Return DC's and DSA's image steps and epochs of network training after each, for the nearest published ipc."""
    steps, epochs = nearest(DC_LOOPS, ipc)
    return {"inner_steps": steps, "update.epochs": epochs}


def mtt(
    steps: int, ahead: int, start: int, syn_lr: float, rate_lr: float = 1e-5, rate: float = 0.01, batch: int = 0
) -> dict[str, Any]:
    """Return the settings of trajectory matching (MTT, table 6): N, M and T+; the learning rates of the images and of
    the learnable rate; the initial learnable rate; the number of synthetic images in a step of the student (0: all)."""
    student = {"objective.steps": steps, "objective.batch": batch, "models.ahead": ahead, "models.start": start}
    return {**student, "optimiser.lr": syn_lr, "objective.rate_lr": rate_lr, "objective.rate": rate}


def datm(
    steps: int, ahead: int, first: int, grows: tuple[int, int, int], syn_lr: float, label_lr: float,
    rate_lr: float = 1e-5, batch: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Return the settings of DATM (its configurations): N, M, T-; ``grows`` = (T, T+, outer iterations from T to T+),
    where T = T+ disables growth; the learning rates of images, labels and learnable rate; images in a step (0: all)."""
    begin, start, over = grows
    grown = {"models.first": first, "models.grows_from": begin, "models.grows_over": over, "labels.lr": label_lr}
    return {**mtt(steps, ahead, start, syn_lr, rate_lr, batch=batch), **grown}


def unrolled(window: int, steps: int, lr: float, least: int = 0, batch: int = 10, classes: int = 0) -> dict[str, Any]:
    """Return the settings of RaT-BPTT: M, T, the learning rate of the images, the fewest steps before the window, and
    the number of images per class and of classes (0: all) in a step of the network."""
    length = {"objective.window": window, "objective.steps": steps, "objective.least": least, "optimiser.lr": lr}
    return {**length, "objective.batch": batch, "objective.class_batch": classes}


def normalised(mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
    """Return the statistics that a released code normalises with, which may differ from those of the pixels."""
    return {"mean": mean, "std": std}


IMAGENET = normalised((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def without_flip() -> Overrides:
    """Return the settings for data whose mirror images have another meaning: digits and letters."""
    dsa = Siamese("color_crop_cutout_scale_rotate", "one")
    overrides = {
        "@idc": {"protocol.augment": Siamese("color_crop_scale_rotate")},
        "@dsa @datm @dd-ranking": {"protocol.augment": dsa},
        "dsa dm cafe_dsa": {"augment": dsa},
        "cim": {"augment": Siamese("crop_cutout")},
        "dsa cafe_dsa": {"update.augment": dsa},
        "mtt datm": {"models.augment": dsa, "objective.augment": dsa},
        "random_soft": {"models.augment": dsa},
        "rat_bptt": {"objective.augment": Siamese("rotate", "one")},
        "@rat": {"protocol.augment": Siamese("rotate", "one")},
    }
    return [overrides]
