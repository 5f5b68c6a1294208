"""Paired features: each synthetic image is led to the features of one real image of its own (CIM)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from distill_jax.axes.objective.feature import FeatureMatching
from distill_jax.contracts import ClassObjective
from distill_jax.types import Array, Model, Net, Shape, choice


@choice
class PairedFeatures(ClassObjective):
    """Sum over pairs of the mean absolute difference of the features of decoded image d and real image d.

    As CIM's release: the absolute difference, where the paper has the squared one; one network, in evaluation mode; one
    block, after pooling (by default the last).
    """

    block: int = -1
    """negative: from the end"""

    paired = True

    def check(self, net: Net, shape: Shape) -> None:
        """Raises RequestError where the network has no such block."""
        FeatureMatching(self.block, self.block).check(net, shape)

    def class_loss(self, net: Net, model: Model, real: Array, syn: Array, c: Array, key: Array) -> Array:
        """Scalar >= 0. ``real`` may have more images than ``syn``: the first are its pairs."""
        theirs, ours = (
            net.apply(model, x, train=False)[0].blocks[self.block].after for x in (real[: syn.shape[0]], syn)
        )
        apart = jnp.abs(jax.lax.stop_gradient(theirs) - ours)
        return jnp.sum(jnp.mean(apart, axis=tuple(range(1, apart.ndim))))
