"""Anchors: the real images that a network is surest of, one beside each decoded image (CIM)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from distill_jax import tree
from distill_jax.contracts import Selector
from distill_jax.types import Array, Model, Net, PyTree, RealData, RequestError, choice

FIRST = 300
"""images of a class, from its first on, that anchors are chosen from, and a quarter more than anchors where those are
many: 500 and 1000 for 400 and 800, as in the release"""
AT_ONCE = 32
"""images that go through the network together"""


def surest_images(net: Net, model: Model, data: RealData, n: int) -> Array:
    """int32 [C, n]: positions within each class of the ``n`` images, among its first, on which ``model`` in evaluation
    mode has the least cross-entropy, the least first."""
    many = min(max(FIRST, n + n // 4), data.index.shape[1])

    def of_class(each: tuple[Array, Array, Array]) -> Array:
        rows, count, c = each

        def loss(row: Array) -> Array:
            logits = net.apply(model, data.normaliser.to_network(data.images[row][None]), train=False)[0].logits
            return optax.softmax_cross_entropy_with_integer_labels(logits, c[None])[0]

        losses = jnp.where(jnp.arange(many) < count, tree.map_chunks(loss, rows, min(AT_ONCE, many)), jnp.inf)
        return jnp.argsort(losses)[:n].astype(jnp.int32)

    return jax.lax.map(of_class, (data.index[:, :many], data.counts, data.labels[data.index[:, 0]]))


@choice
class Anchors(Selector):
    """The same images in every step: those of each class that the first network of the pool is surest of, in order.

    ``AnchorMosaics`` begins with the same ones, tiled so that decoded image d is anchor d.
    """

    batch: int = 4
    """B: anchors of a class, at least as many as decoded images; a recipe sets as many"""

    paired = True

    def check(self, counts: Sequence[int], ipc: int, factor: int) -> None:
        """Raises RequestError where there are fewer anchors than decoded images, or fewer images than anchors."""
        if self.batch < ipc * factor**2:
            raise RequestError(
                f"selector.batch is {self.batch}: ipc {ipc} and factor {factor} need --selector.batch {ipc * factor**2}"
            )
        if self.batch > min(counts):
            raise RequestError(
                f"selector.batch asks for {self.batch} different images, but a class has only {min(counts)}: "
                "use a smaller --ipc or --factor"
            )

    def init(self, net: Net, teachers: Model | None, data: RealData) -> Array:
        """int32 [C, B]"""
        assert teachers is not None  # spec.check
        return surest_images(net, tree.take(teachers, 0), data, self.batch)

    def select(
        self, net: Net, model: Model, data: RealData, memory: Array, inner: Array, key: Array
    ) -> tuple[Array, PyTree]:
        return memory, memory
