"""Paired features: each synthetic image matches the features of its own real image (CIM)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from distill_jax.axes.objective.feature import FeatureMatching
from distill_jax.contracts import ClassObjective
from distill_jax.types import Array, Model, Net, Shape, choice


@choice
class PairedFeatures(ClassObjective):
    """Sum over pairs of the mean absolute difference between the features of decoded image d and real image d.

    As in CIM's release, the difference is absolute, although the paper squares it. The loss uses one network, in
    evaluation mode, and one block, after pooling (by default the last).
    """

    block: int = -1
    """number of the block; negative numbers count from the end"""

    paired = True

    def check(self, net: Net, shape: Shape) -> None:
        """Raise RequestError if the network has no such block."""
        FeatureMatching(self.block, self.block).check(net, shape)

    def class_loss(self, net: Net, model: Model, real: Array, syn: Array, c: Array, key: Array) -> Array:
        """Return the loss, a scalar >= 0. ``real`` may have more images than ``syn``: only its first images are
        paired."""
        real_features, syn_features = (
            net.apply(model, x, train=False)[0].blocks[self.block].after for x in (real[: syn.shape[0]], syn)
        )
        difference = jnp.abs(jax.lax.stop_gradient(real_features) - syn_features)
        return jnp.sum(jnp.mean(difference, axis=tuple(range(1, difference.ndim))))
