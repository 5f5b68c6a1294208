"""Tests that joined leaves are split into the same tree, and that a map over many leaves does not show it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax import mesh, tree


def many_leaves(length: int) -> dict[str, Any]:
    """Return more leaves than ``mesh.MANY``, of several dtypes and ranks, one of them empty."""
    numbers = {f"w{i}": jnp.arange(length * 6.0).reshape(length, 2, 3) + i for i in range(mesh.MANY)}
    counts = {"count": jnp.arange(length), "rows": jnp.arange(2 * length).reshape(length, 2)}
    return numbers | counts | {"key": jax.random.split(jax.random.key(0), length), "none": jnp.zeros((length, 0))}


def test_joined_leaves_are_split_into_the_same_tree() -> None:
    leaves = many_leaves(4)
    joined, split = tree.join_leaves(leaves, 1)
    assert [(a.shape, a.dtype.name) for a in joined] == [((4, 3), "int32"), ((4, 1), "key<fry>"), ((4, 48), "float32")]
    jax.tree.map(np.testing.assert_array_equal, *map(_numbers, (split(joined), leaves)))
    one = split([a[2] for a in joined])
    jax.tree.map(np.testing.assert_array_equal, *map(_numbers, (one, tree.take(leaves, 2))))


@pytest.mark.parametrize("length, chunk", [(1, 1), (5, 1), (5, 2), (5, 5)])
def test_a_map_over_many_leaves_gives_what_a_loop_gives(length: int, chunk: int) -> None:
    leaves = many_leaves(length)

    def f(x: dict[str, Any], offset: jax.Array) -> dict[str, Any]:
        drawn = jax.random.uniform(x["key"])
        return {"sum": x["w0"] + x["w7"] * offset, "next": x["count"] + 1, "drawn": drawn, "key": x["key"]}

    mapped = jax.jit(lambda leaves: mesh.map_chunks(f, leaves, chunk, jnp.float32(2)))(leaves)
    loop = [f(tree.take(leaves, i), jnp.float32(2)) for i in range(length)]
    expected = {name: jnp.stack([each[name] for each in loop]) for name in loop[0]}
    jax.tree.map(np.testing.assert_array_equal, *map(_numbers, (mapped, expected)))


def _numbers(leaves: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return ``leaves`` as NumPy arrays, with the numbers of random keys."""
    return {name: np.asarray(jax.random.key_data(a) if name == "key" else a) for name, a in leaves.items()}
