"""Every network by its name on the command line, on the smallest data and on CIFAR's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from distill_jax.nets import ARCHITECTURES


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3)])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_shapes(name: str, shape: tuple[int, int, int]) -> None:
    net = ARCHITECTURES[name]().build(shape, 3)
    assert hash(net) == hash(ARCHITECTURES[name]().build(shape, 3))

    def forward(key: jax.Array):
        return net.apply(net.init(key), jnp.zeros((2, *shape)), True)[0]

    out = jax.eval_shape(forward, jax.random.key(0))
    assert out.logits.shape == (2, 3) and out.embedding.shape[0] == 2 and out.embedding.ndim == 2 and out.blocks
