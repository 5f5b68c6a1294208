"""What the papers ran, and whether an experiment runs the same: ``compared``.

``configurations.json.xz`` holds 254 configurations of IDC, Acc-DD, DREAM, DC, DSA, DM, MTT and CAFE, each key explained
in ``tests/golden/README.md`` (section Configurations). They were made by executing the released codes' own parsers,
helpers and main loops.
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
    """One setting, here and there."""

    name: str
    ours: Any
    released: Any
    paper: Any = None
    """where the paper differs from the release"""

    @property
    def equal(self) -> bool:
        reference = self.released if self.paper is None else self.paper
        if self.name.endswith("_aug") and isinstance(reference, str):
            return sorted(self.ours.split("_")) == sorted(reference.split("_"))
        return same(self.ours, reference)


@cache
def configurations() -> Mapping[tuple[str, str, int, int], Settings]:
    """(method, data set, ipc, factor) -> its settings."""
    packed = resources.files(__name__).joinpath("configurations.json.xz").read_bytes()
    known = json.loads(lzma.decompress(packed))["configurations"]
    return {(of["method"], of["dataset"], of["ipc"], of["factor"]): of for of in known}


def compared(
    method: str, dataset: str, experiment: Experiment, shape: Shape, classes: int, zca: bool = False
) -> list[Comparison]:
    """Each setting that has a published value; none where the codes were not run with this ipc and factor.

    ``dataset`` is the name of its recipe, ``shape`` (H, W, c) of the images; ``zca``: they are whitened.
    """
    spec = experiment.spec
    there = configurations().get((method, dataset, spec.ipc, spec.parameterisation.factor))
    if there is None or "error" in there:
        return []
    here = settings(experiment, shape, classes, zca)
    papers = {"outer_iterations": "paper_outer_iterations_ours5", "perturb_directions": "paper_perturb_directions"}
    return [
        Comparison(name, value, there[name], there.get(papers.get(name, "")))
        for name, value in here.items()
        if name in there
    ]


def same(a: Any, b: Any) -> bool:
    """Equal, numbers up to rounding."""
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float | int) and isinstance(b, float | int) and not isinstance(a, bool):
        return abs(a - b) <= 1e-6 * max(abs(a), abs(b))
    return a == b
