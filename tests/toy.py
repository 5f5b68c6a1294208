"""Provides a two-class 8x8 data set and small problems on it, for property tests of whole steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import numpy as np

from distill_jax.augment import NoAugment, Siamese
from distill_jax.axes.objective import TrajectoryMatching, TruncatedBackprop
from distill_jax.axes.parameterisation import MultiFormation
from distill_jax.distill import Problem, State, begin_outer, init_state
from distill_jax.nets import ConvNet
from distill_jax.recipes import resolve
from distill_jax.run import no_tick, with_chunks
from distill_jax.spec import Spec, as_arrays
from distill_jax.types import RealData

SHAPE = (8, 8, 1)
COUNTS = (9, 7)
SMALL = {
    "spec.net": ConvNet(depth=1, width=4),
    "models.size": 2,
    "models.epochs": 1,
    "models.augment": NoAugment(),
    "live": 2,
    "selector.batch": 4,
    "update.images": 8,
    "update.batch": 4,
    "update.max_epochs": 10,
    "objective.steps": 2,
    "objective.window": 1,
    "outer_steps": 2,
    "inner_steps": 2,
}

# CIM has nothing to learn if its cells are as large as an image.
OWN = {"cim": {"ipc": 1, "parameterisation": MultiFormation(2)}}


def data() -> RealData:
    """Return 9 noisy images of class 0, which is bright on the left, and 7 of class 1, which is bright on the right."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], COUNTS)
    images = rng.integers(0, 100, (len(labels), *SHAPE))
    images[labels == 0, :, :4] += 120
    images[labels == 1, :, 4:] += 120
    pixels = images / 255
    return RealData.from_arrays(images, labels, [pixels.mean()], [pixels.std()])


def problem(method: str, seed: int = 0, **changes) -> Problem:
    """Return a preset shrunk to the toy. ``changes`` replace fields of its spec."""
    experiment = resolve(method, "digits", ipc=2, shape=SHAPE)
    spec = shrunk(experiment.spec)
    changes = OWN.get(method, {}) | changes
    if isinstance(spec.objective, TrajectoryMatching):
        # Experts of one short epoch stay so close to their start that the published rates overshoot.
        spec = replace(spec, objective=replace(spec.objective, rate_lr=1e-7))
    if isinstance(spec.objective, TruncatedBackprop):
        # The loss of a student hardly depends on the images if it takes two slow steps.
        inner = replace(spec.objective.inner, lr=0.02)
        spec = replace(spec, objective=replace(spec.objective, steps=6, window=3, inner=inner))
    spec = as_arrays(with_chunks(replace(spec, **changes), SHAPE, len(COUNTS), "cpu"))
    net, real = spec.net.build(SHAPE, len(COUNTS)), data()
    pool_key, root = jax.random.split(jax.random.key(seed))
    return Problem(spec, net, real, spec.models.pretrain(net, real, pool_key, no_tick), root)


def begun(problem: Problem) -> State:
    """Return the initial state with the models of an outer iteration."""
    return begin_outer(problem, init_state(problem), problem.root)


def shrunk(spec: Spec) -> Spec:
    """Return the spec with its fields reduced as SMALL says."""
    for path, value in SMALL.items():
        *axis, field = path.removeprefix("spec.").split(".")
        if not axis:
            spec = replace(spec, **{field: value})
        elif field in vars(getattr(spec, axis[0])):
            spec = replace(spec, **{axis[0]: replace(getattr(spec, axis[0]), **{field: value})})
    # An augmentation of training is a draw for each batch, whatever it draws; one that mirrors compiles fastest.
    for axis in ("update", "objective"):
        choice: Any = getattr(spec, axis)
        if isinstance(getattr(choice, "augment", None), Siamese):
            spec = replace(spec, **{axis: replace(choice, augment=Siamese("flip", "one"))})
    return spec
