"""Tests random numbers from few calls: their distributions, and batches of draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax import tree
from distill_jax.augment import NoAugment, Siamese, draw_patches
from distill_jax.augment_photos import BasicAugment, PhotoAugment
from distill_jax.contracts import Augmentation
from distill_jax.draws import permutations, split, uniform
from distill_jax.types import choice

KEY = jax.random.key(5)


def test_bits_become_numbers_from_0_to_below_1():
    ends = np.asarray(uniform(jnp.asarray([0, 255, 256, 2**31, 2**32 - 1], jnp.uint32)))
    np.testing.assert_array_equal(ends, [0, 0, 2**-24, 0.5, 1 - 2**-24])
    drawn = np.sort(uniform(jax.random.bits(KEY, (10_000,), jnp.uint32)))
    assert np.abs(drawn - (np.arange(10_000) + 0.5) / 10_000).max() < 0.02, "Kolmogorov-Smirnov at 1e-3: 0.0195"


def test_all_permutations_are_equally_frequent():
    drawn = np.asarray(jax.jit(permutations, static_argnums=(1, 2))(KEY, 6000, 3))
    assert drawn.shape == (6000, 3) and drawn.dtype == np.int32
    kinds, counts = np.unique(drawn, axis=0, return_counts=True)
    assert sorted(map(tuple, kinds.tolist())) == [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000 * 5 / 6), "five standard errors"


def test_patches_of_steps_are_independent():
    steps, shape = 3000, (4, 9, 7, 1)
    patches = jax.jit(draw_patches, static_argnums=(1, 2))(KEY, steps, shape)
    numbers = np.asarray(jnp.stack([patches.lam, patches.luck, *patches.centre.T.astype(float)]))
    assert np.abs(np.corrcoef(numbers) - np.eye(4)).max() < 0.1
    assert np.abs([np.corrcoef(row[1:], row[:-1])[0, 1] for row in numbers]).max() < 0.1
    assert [np.unique(centres).tolist() for centres in patches.centre.T] == [list(range(9)), list(range(7))]
    assert (np.sort(patches.partner, axis=1) == np.arange(4)).all()


@choice
class Mine(Augmentation):
    """An augmentation with the default draws of the contract, which are keys."""

    def apply(self, x, draws):
        return x + jax.random.uniform(draws)


@pytest.mark.parametrize("augment", [NoAugment(), Siamese("flip_crop", "one"), PhotoAugment(), BasicAugment(), Mine()])
def test_batches_of_draws_are_draws(augment):
    def numbers(draws):
        typed = [jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a for a in draws]
        return [np.asarray(a) for a in typed]

    def drawn(key):
        many = augment.draw_batches(key, 3, 2)
        return augment.draw(key, 2), [tree.take(many, i) for i in range(3)]

    one, batches = jax.jit(drawn)(KEY)
    for batch in batches:
        assert jax.tree.structure(batch) == jax.tree.structure(one)
        assert jax.tree.map(jnp.shape, batch) == jax.tree.map(jnp.shape, one)
    x = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    assert jax.eval_shape(augment.apply_each, x, batches[2]).shape == x.shape
    for first, second in zip(*map(numbers, map(jax.tree.leaves, batches[:2])), strict=True):
        assert not np.array_equal(first, second)


def test_a_single_key_is_not_split() -> None:
    key = jax.random.key(0)
    assert split(key, 1).shape == (1,) and split(key, 1)[0] == key
    ours, jaxs = (jax.random.key_data(keys) for keys in (split(key, 3), jax.random.split(key, 3)))
    np.testing.assert_array_equal(ours, jaxs)
