"""Provides the weights and inputs of the golden figures (golden README, section 0)."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import jax
import numpy as np
import optax

GOLDEN = Path(__file__).parent / "golden"


@cache
def golden_figures(name: str) -> dict[str, np.ndarray]:
    """Return the arrays of ``tests/golden/NAME.npz``."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


CIFAR_MEAN = np.asarray([0.4914, 0.4822, 0.4465], np.float32)
CIFAR_STD = np.asarray([0.2023, 0.1994, 0.2010], np.float32)


def deterministic(names, shapes, roles, quadratic: float = 0.001) -> dict[str, np.ndarray]:
    """name -> float32 array of PyTorch shape: base + amp * sin(1.618 k + 0.001 k^2 + p) for parameter number p."""
    weights = {}
    for p, (name, padded, role) in enumerate(zip(names, shapes, roles, strict=True)):
        shape = tuple(int(n) for n in padded if n)
        k = np.arange(np.prod(shape), dtype=np.float64)
        base = 1.0 if role == "s" else 0.0
        amplitude = 1 / np.sqrt(np.prod(shape[1:])) if role == "w" else 0.1
        values = base + amplitude * np.sin(1.618 * k + quadratic * k * k + p)
        weights[str(name)] = values.astype(np.float32).reshape(shape)
    return weights


def pixels(u8: np.ndarray) -> np.ndarray:
    """uint8 NCHW -> float32 NHWC in [0, 1]"""
    return (u8.astype(np.float32) / np.float32(255)).transpose(0, 2, 3, 1)


def cifar_normalised(u8: np.ndarray) -> np.ndarray:
    """uint8 NCHW -> float32 NHWC, network space"""
    return (pixels(u8) - CIFAR_MEAN) / CIFAR_STD


def waves(side: int) -> np.ndarray:
    """Return the two test network-space images [2, side, side, 3] of the larger networks (golden README, section 2)."""
    i, h, w, c = np.ogrid[:2, :side, :side, :3]
    slow = 1.2 * np.sin(2 * np.pi * 1.7 * ((i + 1) * h + (c + 1) * w) / side + 0.9 * c)
    return (slow + 0.6 * np.cos(0.05 * ((h * w) % 97) * (i + 1) + i)).astype(np.float32)


@partial(jax.jit, static_argnums=0)
def training_pass(net, model, x, y):
    """Return (loss, (NetOutput, new statistics)) and the gradients of the cross-entropy in training mode."""

    def loss(params):
        out, stats = net.apply(model._replace(params=params), x, True)
        return optax.softmax_cross_entropy_with_integer_labels(out.logits, y).mean(), (out, stats)

    return jax.value_and_grad(loss, has_aux=True)(model.params)
