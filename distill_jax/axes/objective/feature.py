"""Feature matching: the distance between the mean features of real and synthetic images (DM; IDC's variant)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from distill_jax.contracts import ClassObjective
from distill_jax.micro_batches import forward
from distill_jax.types import Array, Model, Net, RequestError, Shape, choice


@choice
class FeatureMatching(ClassObjective):
    """Squared distance between the mean features of real and synthetic images (IDC's feature matching, DM eq. 4).

    It matches the pooled outputs of blocks ``first`` to ``last``, inclusive; negative numbers count from the end. The
    default, the last block alone, is DM: the flattened output of that block is the embedding.
    """

    first: int = -1
    last: int = -1

    def check(self, net: Net, shape: Shape) -> None:
        """Raise RequestError if the network lacks these blocks."""
        image = jnp.zeros((1, *shape))
        out, _ = jax.eval_shape(lambda key: net.apply(net.init(key), image, True), jax.random.key(0))
        n = len(out.blocks)
        if not (-n <= self.first < n and -n <= self.last < n) or self.first % n > self.last % n:
            raise RequestError(
                f"objective.first {self.first} to objective.last {self.last} selects no block of this --net, "
                f"which has {n}: use numbers from 0 to {n - 1}, or another --net"
            )

    def class_loss(self, net: Net, model: Model, real: Array, syn: Array, c: Array, key: Array) -> Array:
        """Return the sum over blocks and elements of squared differences of batch means: a scalar >= 0.

        The means of the real images are constants.
        """

        def features(x: Array) -> list[Array]:
            blocks = net.apply(model, x, train=True)[0].blocks
            n = len(blocks)
            return [block.after for block in blocks[self.first % n : self.last % n + 1]]

        pairs = zip(jax.lax.stop_gradient(forward(features, model, real)), features(syn), strict=True)
        squares = (jnp.sum((jnp.mean(a, axis=0) - jnp.mean(b, axis=0)) ** 2) for a, b in pairs)
        return sum(squares, jnp.zeros(()))
