"""Provides a network that records the steps of its training, so that tests see what a training loop trains on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from distill_jax.types import Array, Model, NetOutput, Shape


class Seen(NamedTuple):
    """What a network was trained on, step by step."""

    images: np.ndarray
    """[steps, batch, H, W, c]"""
    slopes: np.ndarray
    """[steps, batch, C]: target - 1 / C, multiplied by the learning rate of the step and the weight of the image"""


@dataclass(frozen=True)
class Recorder:
    """A network that predicts equal probabilities in every step, and keeps the batch of each of at most ``steps`` steps
    in its running statistics. Each step has logits of its own as parameters: without momentum and weight decay, the
    optimiser leaves the step's ``slopes`` in them."""

    steps: int
    batch: int
    shape: Shape
    classes: int

    def init(self, key: Array) -> Model:
        images = jnp.zeros((self.steps, self.batch, *self.shape))
        stats = {"images": images, "steps": jnp.zeros((), jnp.int32)}
        return Model({"logits": jnp.zeros((self.steps, self.batch, self.classes))}, stats)

    def apply(self, model: Model, x: Array, train: bool) -> tuple[NetOutput, Any]:
        step = model.stats["steps"]
        stats = {"images": model.stats["images"].at[step].set(x), "steps": step + 1}
        return NetOutput(model.params["logits"][step], (), x), stats

    def seen(self, model: Model) -> Seen:
        """Return the steps that the trained ``model`` took, all of the same ``model.stats["steps"]``."""
        taken = int(np.max(model.stats["steps"]))
        images, logits = (np.asarray(a) for a in (model.stats["images"], model.params["logits"]))
        return Seen(images[..., :taken, :, :, :, :], logits[..., :taken, :, :])
