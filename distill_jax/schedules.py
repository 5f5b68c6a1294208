"""Learning rates of networks that drop in steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from distill_jax.types import PyTree


class Schedule(NamedTuple):
    """A learning rate that drops in steps over E epochs."""

    drops: Callable[[int], tuple[int, ...]]
    """E -> number of epochs before each drop"""
    factor: float
    """factor on the rate at each drop"""
    extra: int = 0
    """number of epochs beyond E"""
    restarts: bool = False
    """whether each drop also resets the momentum to zero, as a new optimiser does"""


SCHEDULES = {
    "thirds": Schedule(lambda epochs: (2 * epochs // 3, 5 * epochs // 6), 0.2),
    "constant": Schedule(lambda epochs: (), 1.0),
    "half": Schedule(lambda epochs: (epochs // 2,), 0.1),
    "dc": Schedule(lambda epochs: (epochs // 2 + 2,), 0.1, extra=1, restarts=True),
}
"""thirds: IDC and Acc-DD; dc: DC, DSA, DM, MTT and DC-Bench as released; half: DD-Ranking; constant: RaT-BPTT"""


def rate_drops(epochs: int, steps: int, schedule: str = "thirds") -> optax.Schedule:
    """Return the factor on the learning rate at each step, for ``epochs`` epochs of ``steps`` steps. A single epoch has
    no drop, because all would precede it."""
    drops, factor, *_ = SCHEDULES[schedule]
    scales: dict[int, float] = {}
    for epoch in drops(epochs):
        if epoch > 0:
            scales[epoch * steps] = scales.get(epoch * steps, 1.0) * factor
    rate = optax.piecewise_constant_schedule(1.0, scales)
    # optax mixes the integer count with floats, which strict dtype promotion forbids.
    return lambda count: rate(jnp.asarray(count, float))


def reset_momentum(state: PyTree) -> PyTree:
    """Set the momentum in a state of ``NetworkSGD`` to zero, as in a new optimiser. The schedule continues."""
    return optax.tree.set(state, trace=jax.tree.map(jnp.zeros_like, optax.tree.get(state, "trace")))
