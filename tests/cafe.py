"""Provides CAFE's golden network and images (golden README, section 16)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from distill_jax.nets import ConvNet, FlaxNet, from_torch
from distill_jax.types import (
    Array,
    Model,
)
from tests.golden_weights import GOLDEN, cifar_normalised, deterministic

SHAPE = (32, 32, 3)


def figures() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "cafe.npz") as file:
        return dict(file)


def network(golden: dict[str, np.ndarray], dtype: Any = "float32") -> tuple[FlaxNet, Model]:
    net = ConvNet(3, 16, dtype=dtype).build(SHAPE, 10)
    weights = deterministic(golden["names"], golden["shapes"], golden["roles"])
    return net, from_torch(net, {name: w.astype(dtype) for name, w in weights.items()})


def images(golden: dict[str, np.ndarray], dtype: Any = "float32") -> tuple[Array, Array]:
    """Return real [10, 8, ...] and synthetic [10, 2, ...] images in network space, normalised in float32."""
    real = cifar_normalised(golden["real_u8"].reshape(-1, 3, 32, 32)).reshape(10, 8, *SHAPE)
    syn = cifar_normalised(golden["syn_u8"]).reshape(10, 2, *SHAPE)
    return jnp.asarray(real, dtype), jnp.asarray(syn, dtype)


def channels_first(x: Array) -> np.ndarray:
    """[10, 2, H, W, c] -> [20, c, H, W]"""
    return np.asarray(x).reshape(-1, *SHAPE).transpose(0, 3, 1, 2)


def statistics(x: Array) -> np.ndarray:
    flat = channels_first(x).reshape(-1)
    return np.asarray([flat.sum(), np.linalg.norm(flat), np.sum(flat * np.cos(0.37 * np.arange(flat.size)))])
