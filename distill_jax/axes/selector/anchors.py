"""Anchors: the real images of the lowest loss, one paired with each decoded image (CIM)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from distill_jax import tree
from distill_jax.contracts import Selector
from distill_jax.types import Array, Model, Net, PyTree, RealData, RequestError, choice

FIRST = 300
"""minimum number of images, counted from the first of each class, from which anchors are chosen. For n anchors the
number is n + n // 4 if that is more, as in the release: 500 images for 400 anchors, 1000 for 800"""
AT_ONCE = 32
"""number of images that go through the network together"""


def surest_images(net: Net, model: Model, data: RealData, n: int) -> Array:
    """Return int32 [C, n] positions within each class of the ``n`` images with the lowest cross-entropy, lowest first.

    Only the first images of each class are candidates. ``model`` runs in evaluation mode.
    """
    size = min(max(FIRST, n + n // 4), data.index.shape[1])

    def class_positions(args: tuple[Array, Array, Array]) -> Array:
        rows, count, c = args

        def loss(row: Array) -> Array:
            logits = net.apply(model, data.normaliser.to_network(data.images[row][None]), train=False)[0].logits
            return optax.softmax_cross_entropy_with_integer_labels(logits, c[None])[0]

        losses = jnp.where(jnp.arange(size) < count, tree.map_chunks(loss, rows, min(AT_ONCE, size)), jnp.inf)
        return jnp.argsort(losses)[:n].astype(jnp.int32)

    return jax.lax.map(class_positions, (data.index[:, :size], data.counts, data.labels[data.index[:, 0]]))


@choice
class Anchors(Selector):
    """Selects the same images in every step: those on which the pool's first network has the lowest loss, in order.

    ``AnchorMosaics`` starts from the same images, tiled so that decoded image d is anchor d.
    """

    batch: int = 4
    """B: number of anchors per class, at least the number of decoded images; ``resolve`` sets it to that number"""

    paired = True

    def check(self, counts: Sequence[int], ipc: int, factor: int) -> None:
        """Raise RequestError if there are fewer anchors than decoded images, or fewer images than anchors."""
        decoded, fewest = ipc * factor**2, min(counts)
        if decoded > fewest:
            raise RequestError(
                f"ipc {ipc} and factor {factor} need {decoded} different images for --selector, but a class has only "
                f"{fewest}: use a smaller --ipc or --factor"
            )
        if not decoded <= self.batch <= fewest:
            raise RequestError(
                f"selector.batch is {self.batch}: give a number from {decoded}, which ipc {ipc} and factor {factor} "
                f"need, to {fewest}, the images of the smallest class"
            )

    def init(self, net: Net, teachers: Model | None, data: RealData) -> Array:
        """Return the positions of the anchors within each class, int32 [C, B]."""
        assert teachers is not None  # check_spec.check
        return surest_images(net, tree.take(teachers, 0), data, self.batch)

    def select(
        self, net: Net, model: Model, data: RealData, memory: Array, inner: Array, key: Array
    ) -> tuple[Array, PyTree]:
        return memory, memory
