"""Layerwise feature alignment of all classes at once (CAFE, Wang et al. 2022)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from distill_jax.contracts import SetObjective
from distill_jax.types import Array, Model, Net, Synthetic, choice


class Terms(NamedTuple):
    """The unweighted terms of the loss, each a scalar >= 0."""

    blocks: tuple[Array, ...]
    """distances between the class means of each block's output before pooling, shallow to deep"""
    pooled: Array
    """distance between the class means of the deepest block's output after pooling"""
    centre: Array
    """distance between the class means of the embedding; equal to ``pooled`` in a ConvNet"""
    discrimination: Array
    """cross-entropy of the real images when the synthetic class centres classify them"""


def alignment_terms(net: Net, model: Model, real: Array, syn: Array) -> Terms:
    """Return the terms for ``real`` [C, B, H, W, c] and ``syn`` [C, D, H, W, c] in network space.

    Every term is a *sum* over classes, channels, pixels or real images, never a mean, as in the released code.
    """
    classes, batch = real.shape[:2]
    syn_out = net.apply(model, syn.reshape(-1, *syn.shape[2:]), train=True)[0]
    real_out = jax.lax.stop_gradient(net.apply(model, real.reshape(-1, *real.shape[2:]), train=True)[0])

    def class_means(h: Array) -> Array:
        return jnp.mean(h.reshape(classes, -1, *h.shape[1:]), axis=1)

    def distance(a: Array, b: Array) -> Array:
        return jnp.sum((class_means(a) - class_means(b)) ** 2)

    scores = real_out.embedding @ class_means(syn_out.embedding).T
    labels = jnp.repeat(jnp.arange(classes), batch)
    return Terms(
        blocks=tuple(distance(a.before, b.before) for a, b in zip(real_out.blocks, syn_out.blocks, strict=True)),
        pooled=distance(real_out.blocks[-1].after, syn_out.blocks[-1].after),
        centre=distance(real_out.embedding, syn_out.embedding),
        discrimination=jnp.sum(optax.softmax_cross_entropy_with_integer_labels(scores, labels)),
    )


@choice
class LayerwiseAlignment(SetObjective):
    """Matches the class means of every layer and classifies real features by the synthetic class centres (CAFE).

    In a network of more than three blocks, the shallower blocks all get the weight of the shallowest one. The released
    code also adds the cross-entropy of the network on the real images. This term does not depend on the synthetic
    images and is omitted.
    """

    pooled: float = 1.0
    """weight of the deepest block after pooling (CAFE's first weight; the embedding adds another term of weight 1)"""
    deep: float = 1.0
    """weight of the deepest block before pooling (CAFE's second weight)"""
    middle: float = 0.1
    """weight of the second-deepest block (CAFE's third weight)"""
    shallow: float = 0.1
    """weight of every shallower block (CAFE's fourth weight)"""
    discrimination: float = 0.01
    """weight of classifying real images by the synthetic class centres (CAFE)"""

    def set_loss(self, net: Net, model: Model, real: Array, syn: Synthetic, key: Array) -> Array:
        """Return the loss, a scalar >= 0."""
        terms = alignment_terms(net, model, real, syn.images)
        deepest, *others = reversed(terms.blocks)
        shallow = sum(others[1:], jnp.zeros_like(deepest))
        middle = others[0] if others else jnp.zeros_like(deepest)
        layers = self.pooled * terms.pooled + self.deep * deepest + self.middle * middle + self.shallow * shallow
        return layers + terms.centre + self.discrimination * terms.discrimination
