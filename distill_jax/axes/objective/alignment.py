"""Layerwise feature alignment of all classes at once (CAFE, Wang et al. 2022)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from distill_jax.contracts import SetObjective
from distill_jax.types import Array, Model, Net, Synthetic, choice


class Terms(NamedTuple):
    """The parts of the loss without their weights, each a scalar >= 0."""

    blocks: tuple[Array, ...]
    """distance of the class means of each block's output before its pooling, shallow to deep"""
    pooled: Array
    """the same of the deepest block after its pooling"""
    centre: Array
    """the same of the embedding; equal to ``pooled`` in a ConvNet"""
    discrimination: Array
    """cross-entropy of the real images, classified by the synthetic class centres"""


def alignment_terms(net: Net, model: Model, real: Array, syn: Array) -> Terms:
    """The terms for ``real`` [C, B, H, W, c] and ``syn`` [C, D, H, W, c] in network space.

    Everything is a *sum* over classes, channels, pixels or real images, never a mean, as in the released code.
    """
    classes, batch = real.shape[:2]
    ours = net.apply(model, syn.reshape(-1, *syn.shape[2:]), train=True)[0]
    theirs = jax.lax.stop_gradient(net.apply(model, real.reshape(-1, *real.shape[2:]), train=True)[0])

    def class_means(h: Array) -> Array:
        return jnp.mean(h.reshape(classes, -1, *h.shape[1:]), axis=1)

    def distance(a: Array, b: Array) -> Array:
        return jnp.sum((class_means(a) - class_means(b)) ** 2)

    scores = theirs.embedding @ class_means(ours.embedding).T
    labels = jnp.repeat(jnp.arange(classes), batch)
    return Terms(
        blocks=tuple(distance(a.before, b.before) for a, b in zip(theirs.blocks, ours.blocks, strict=True)),
        pooled=distance(theirs.blocks[-1].after, ours.blocks[-1].after),
        centre=distance(theirs.embedding, ours.embedding),
        discrimination=jnp.sum(optax.softmax_cross_entropy_with_integer_labels(scores, labels)),
    )


@choice
class LayerwiseAlignment(SetObjective):
    """Class means of every layer's features, and real features told apart by the synthetic class centres (CAFE).

    A network of more than three blocks gives those in front the weight of the shallowest. The released code also adds
    the network's cross-entropy on the real images, which no synthetic image has a part in: left out.
    """

    pooled: float = 1.0
    """weight of the deepest block after its pooling (CAFE's first; the embedding adds another 1)"""
    deep: float = 1.0
    """weight of the deepest block before its pooling (CAFE's second)"""
    middle: float = 0.1
    """weight of the block before that (CAFE's third)"""
    shallow: float = 0.1
    """weight of every block in front of those (CAFE's fourth)"""
    discrimination: float = 0.01
    """weight of telling real images apart by the synthetic class centres (CAFE)"""

    def set_loss(self, net: Net, model: Model, real: Array, syn: Synthetic, key: Array) -> Array:
        """Scalar >= 0."""
        terms = alignment_terms(net, model, real, syn.images)
        deepest, *others = reversed(terms.blocks)
        shallow = sum(others[1:], jnp.zeros_like(deepest))
        middle = others[0] if others else jnp.zeros_like(deepest)
        layers = self.pooled * terms.pooled + self.deep * deepest + self.middle * middle + self.shallow * shallow
        return layers + terms.centre + self.discrimination * terms.discrimination
