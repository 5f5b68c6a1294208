"""Layerwise feature alignment of all classes at once (CAFE, Wang et al. 2022)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from distill_jax.contracts import SetObjective
from distill_jax.types import Array, Model, Net, Synthetic, choice

PIXELS = 2**22
"""maximum number of pixels of real images that pass through the network at once, half a kilobyte each at width 128"""


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


class Statistics(NamedTuple):
    """What the terms need of the images of each class."""

    blocks: tuple[Array, ...]
    """[C, ...]: mean of each block's output before pooling"""
    pooled: Array
    """[C, ...]: mean of the deepest block's output after pooling"""
    centre: Array
    """[C, E]: mean of the embedding"""
    embedding: Array
    """[C, B, E]: the embedding of each image"""


def alignment_terms(net: Net, model: Model, real: Array, syn: Array) -> Terms:
    """Return the terms for ``real`` [C, B, H, W, c] and ``syn`` [C, D, H, W, c] in network space.

    Every term is a *sum* over classes, channels, pixels or real images, never a mean, as in the released code.
    """
    classes, batch = real.shape[:2]
    ours, theirs = _statistics(net, model, syn), jax.lax.stop_gradient(_real_statistics(net, model, real))

    def distance(a: Array, b: Array) -> Array:
        return jnp.sum((a - b) ** 2)

    scores = theirs.embedding.reshape(classes * batch, -1) @ ours.centre.T
    labels = jnp.repeat(jnp.arange(classes), batch)
    return Terms(
        blocks=tuple(map(distance, theirs.blocks, ours.blocks)),
        pooled=distance(theirs.pooled, ours.pooled),
        centre=distance(theirs.centre, ours.centre),
        discrimination=jnp.sum(optax.softmax_cross_entropy_with_integer_labels(scores, labels)),
    )


def _real_statistics(net: Net, model: Model, real: Array) -> Statistics:
    """Return the statistics of ``real`` [C, B, H, W, c], a few classes at a time if they have more than PIXELS pixels.
    Batch norm combines the images of all classes."""
    classes, batch, height, width, _ = real.shape
    most = max(1, PIXELS // (batch * height * width))
    some = classes if model.stats else max(n for n in range(1, min(most, classes) + 1) if classes % n == 0)
    if some == classes:
        return _statistics(net, model, real)
    groups = jax.lax.map(lambda x: _statistics(net, model, x), real.reshape(-1, some, *real.shape[1:]))
    return jax.tree.map(lambda a: a.reshape(classes, *a.shape[2:]), groups)


def _statistics(net: Net, model: Model, images: Array) -> Statistics:
    """Return the statistics of ``images`` [C, N, H, W, c]."""
    classes = images.shape[0]
    out = net.apply(model, images.reshape(-1, *images.shape[2:]), train=True)[0]

    def of_classes(h: Array) -> Array:
        return h.reshape(classes, -1, *h.shape[1:])

    means = tuple(jnp.mean(of_classes(block.before), axis=1) for block in out.blocks)
    embedding = of_classes(out.embedding)
    pooled = jnp.mean(of_classes(out.blocks[-1].after), axis=1)
    return Statistics(means, pooled, jnp.mean(embedding, axis=1), embedding)


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
