"""Compares an experiment with the configurations that the papers ran: ``compared``.

``configurations.json.xz`` holds 254 configurations of IDC, Acc-DD, DREAM, DC, DSA, DM, MTT and CAFE.
``tests/golden/README.md`` (section Configurations) explains each key. The configurations come from executing the
parsers, helpers and main loops of the released codes.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from distill_jax.published.settings import Settings, settings
from distill_jax.recipes import Experiment
from distill_jax.types import Shape


class Comparison(NamedTuple):
    """The value of one setting here and in the released code."""

    name: str
    ours: Any
    released: Any
    paper: Any = None
    """value in the paper if it differs from the release, else None"""

    @property
    def equal(self) -> bool:
        reference = self.released if self.paper is None else self.paper
        if self.name.endswith("_aug") and isinstance(reference, str):
            return sorted(self.ours.split("_")) == sorted(reference.split("_"))
        return same(self.ours, reference)


@cache
def configurations() -> Mapping[tuple[str, str, int, int], Settings]:
    """Return the settings of every published configuration by (method, data set, ipc, factor)."""
    packed = resources.files(__name__).joinpath("configurations.json.xz").read_bytes()
    known = json.loads(lzma.decompress(packed))["configurations"]
    return {(one["method"], one["dataset"], one["ipc"], one["factor"]): one for one in known}


def compared(
    method: str, dataset: str, experiment: Experiment, shape: Shape, classes: int, zca: bool = False
) -> list[Comparison]:
    """Return each setting that has a published value, or nothing if the codes were not run with this ipc and factor.

    ``dataset`` is the name of its recipe; ``shape`` is (H, W, c) of the images; ``zca`` is true if they are whitened.
    """
    spec = experiment.spec
    released = configurations().get((method, dataset, spec.ipc, spec.parameterisation.factor))
    if released is None or "error" in released:
        return []
    ours = settings(experiment, shape, classes, zca)
    papers = {"outer_iterations": "paper_outer_iterations_ours5", "perturb_directions": "paper_perturb_directions"}
    return [
        Comparison(name, value, released[name], released.get(papers.get(name, "")))
        for name, value in ours.items()
        if name in released
    ]


def same(a: Any, b: Any) -> bool:
    """Return whether ``a`` equals ``b``, with numbers compared up to rounding."""
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float | int) and isinstance(b, float | int) and not isinstance(a, bool):
        return abs(a - b) <= 1e-6 * max(abs(a), abs(b))
    return a == b
