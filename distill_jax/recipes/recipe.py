"""How a data set's recipe is laid over a method's preset.

A recipe is a function ``(ipc, shape, factor) -> {methods: {path: value}}``: ``methods`` is a space-separated list or
``*`` for all, ``path`` leads into Spec, or into Protocol where it starts with ``protocol.``. A path that the method's
own choice does not have (IDC has no ``models.epochs``) is skipped; one that no choice on that axis has is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

from distill_jax.augment import Siamese
from distill_jax.evaluation import IDC_PROTOCOL, Protocol
from distill_jax.methods import PRESETS
from distill_jax.spec import CHOICES, Spec
from distill_jax.types import Choice

Overrides = Mapping[str, Mapping[str, Any]]
Recipe = Callable[[int, tuple[int, int, int], int], Overrides]

IDC_FAMILY = "idc acc_dd dream dream_acc_dd"
DC_LOOPS = {1: (1, 1), 10: (10, 50), 50: (50, 10)}


@dataclass(frozen=True)
class Experiment:
    """All that is chosen before data is read: what to run, and how the result is scored."""

    spec: Spec
    protocol: Protocol = IDC_PROTOCOL


def idc_rate(ipc: int, side: int, reference: int = 32) -> float:
    """The factor on IDC's base learning rate: ipc / 10, times the area relative to the reference side."""
    return ipc / 10 * (side / reference) ** 2


def nearest(table: Mapping[int, Any], ipc: int) -> Any:
    """The entry of the nearest published ipc."""
    return table[min(table, key=lambda known: abs(known - ipc))]


def dc_loops(ipc: int) -> dict[str, int]:
    """DC's and DSA's (image steps, epochs of network training after each), by the nearest published ipc."""
    steps, epochs = nearest(DC_LOOPS, ipc)
    return {"inner_steps": steps, "update.epochs": epochs}


def mtt(
    steps: int, ahead: int, start: int, syn_lr: float, rate_lr: float = 1e-5, rate: float = 0.01, batch: int = 0
) -> dict[str, Any]:
    """Trajectory matching's numbers (MTT, table 6): N, M and T+; the rates of the images and of the learnable rate, and
    what that begins with; synthetic images in a step of the student (0: all)."""
    student = {"objective.steps": steps, "objective.batch": batch, "models.ahead": ahead, "models.start": start}
    return {**student, "optimiser.lr": syn_lr, "objective.rate_lr": rate_lr, "objective.rate": rate}


def without_flip(factor: int = 1) -> Overrides:
    """For data whose mirror images are something else: digits and letters."""
    evaluation = Siamese("color_crop_scale_rotate")
    dsa = Siamese("color_crop_cutout_scale_rotate", "one")
    return {
        "*": {"protocol.augment": evaluation},
        "dsa dm": {"augment": dsa, "update.augment": dsa},
        "mtt": {"models.augment": dsa, "objective.augment": dsa},
    }


def merged(*parts: Overrides) -> Overrides:
    """Several sets of overrides as one; later ones win."""
    out: dict[str, dict[str, Any]] = {}
    for part in parts:
        for methods, values in part.items():
            # Popped and set again so that the later part is also applied later.
            out[methods] = {**out.pop(methods, {}), **values}
    return out


def apply(method: str, experiment: Experiment, overrides: Overrides) -> Experiment:
    """``experiment`` with those overrides that are meant for ``method`` and that its choices have a field for.

    Raises KeyError for a method or a path that nothing has: the recipe is misspelt.
    """
    for methods, values in overrides.items():
        unknown = [name for name in methods.split() if name not in PRESETS and name != "*"]
        if unknown:
            raise KeyError(f"a recipe names the method {unknown[0]}, which is none of {' '.join(PRESETS)}")
        for path, value in values.items():
            if not _exists(path):
                raise KeyError(f"a recipe names {path}, which no choice has")
            if methods == "*" or method in methods.split():
                full = path if path.startswith("protocol.") else f"spec.{path}"
                experiment = replaced(experiment, full.split("."), value)
    return experiment


def replaced(node: Any, path: Sequence[str], value: Any) -> Any:
    """``node`` with ``value`` at ``path``, or as it is where it has no such field."""
    head, *rest = path
    if head not in {f.name for f in fields(node)}:
        return node
    return replace(node, **{head: replaced(getattr(node, head), rest, value) if rest else value})


@cache
def _exists(path: str) -> bool:
    """Whether some choice has a field at ``path``."""
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
