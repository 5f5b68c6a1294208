"""How a data set's recipe is laid over a method's preset.

A recipe is a function ``(ipc, shape, factor) -> {methods: {path: value}}``: ``methods`` is a space-separated list or
``*`` for all, ``path`` leads into Spec, or into Hyper or Protocol where it starts with ``hyper.`` or ``protocol.``. A
path that a method does not have (DM has no ``update.images``) is skipped, so ``*`` may name what only some methods use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from distill_jax.augment import Siamese
from distill_jax.evaluate import IDC, Protocol
from distill_jax.spec import Hyper, Spec

Overrides = Mapping[str, Mapping[str, Any]]
Recipe = Callable[[int, tuple[int, int, int], int], Overrides]

IDC_FAMILY = "idc acc_dd dream dream_acc_dd"
DC_LOOPS = {1: (1, 1), 10: (10, 50), 50: (50, 10)}


@dataclass(frozen=True)
class Experiment:
    """All that is chosen before data is read: what to build, its numbers, and how the result is scored."""

    spec: Spec
    hyper: Hyper = Hyper()
    protocol: Protocol = IDC


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
    return {**student, "hyper.syn_lr": syn_lr, "hyper.rate_lr": rate_lr, "hyper.rate": rate}


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
    """``experiment`` with those overrides that are meant for ``method`` and that it has a field for."""
    for methods, values in overrides.items():
        if methods == "*" or method in methods.split():
            for path, value in values.items():
                if not path.startswith(("hyper.", "protocol.")):
                    path = f"spec.{path}"
                experiment = _set(experiment, path.split("."), value)
    return experiment


def _set(node: Any, path: list[str], value: Any) -> Any:
    head, *rest = path
    if head not in getattr(node, "__dataclass_fields__", {}):
        return node
    return replace(node, **{head: _set(getattr(node, head), rest, value) if rest else value})
