"""Provides distilled sets for tests."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from distill_jax.axes.parameterisation import MultiFormation
from distill_jax.distilled import DistilledSet
from distill_jax.types import Normaliser

C, IPC, SIDE = 3, 2, 9
NAMES = ("cat", "dog", "crème brûlée")
TOLD: dict[str, Any] = {"class_names": NAMES, "mean": (0.5, 0.25, 0.125), "std": (0.5, 0.25, 2.0)}
"""exact in float32, as the images below are"""

PACKED = MultiFormation(2, "multi")


def made(how: Any = PACKED, channels: int = 3, seed: int = 0) -> DistilledSet:
    """Return a set of random images, IPC for each of C classes."""
    images = np.random.default_rng(seed).integers(0, 256, (C, IPC, SIDE, SIDE, channels)).astype(np.float32) / 256
    normaliser = Normaliser(*(jnp.asarray(TOLD[key][:channels]) for key in ("mean", "std")))
    about = {"method": "acc_dd", "dataset": "npz:/my/own.npz"}
    return DistilledSet.of(how, jnp.asarray(images), NAMES, normaliser, about)


def softened(distilled: DistilledSet) -> DistilledSet:
    """Return the set with soft labels that favour the class of each image."""
    noise = np.random.default_rng(1).random((distilled.decoded_count, C))
    soft = noise + 2 * distilled.targets()
    return distilled.with_soft(soft / soft.sum(1, keepdims=True))


def equal(one: DistilledSet, other: DistilledSet) -> None:
    """Assert that two sets have equal images, labels, targets and cards."""
    for a, b in ((one.images, other.images), (one.labels, other.labels), (one.targets(), other.targets())):
        np.testing.assert_array_equal(a, b)
    assert one.card == other.card
