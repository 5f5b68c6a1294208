"""Tests cutmix against golden section 8, and its properties."""

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax import tree
from distill_jax.augment import Patch, draw_patches, mix
from tests.golden_weights import cifar_normalised, golden_figures

KEY = jax.random.key(7)


def cutmix(key, x, targets, probability):
    return mix(x, targets, tree.take(draw_patches(key, 1, x.shape), 0), probability)


def close(got, want, tolerance):
    np.testing.assert_allclose(np.asarray(got, np.float64), np.asarray(want, np.float64), rtol=0, atol=tolerance)


NET = golden_figures("netupdate")


def test_cutmix_golden():
    x = jnp.asarray(cifar_normalised(NET["batch1_u8"]))
    labels = jax.nn.one_hot(NET["y1"], 10)
    lam, row, column, partner = (jnp.asarray(NET[f"cut_{name}"]) for name in ("lam", "cx", "cy", "perm"))
    patch = Patch(lam, jnp.stack((row, column)), partner)
    mixed, targets = jax.jit(mix)(x, labels, patch)
    close(mixed[0], NET["cut_mixed_img0"].transpose(1, 2, 0), 1e-6)
    exact = np.asarray(mixed, np.float64)
    np.testing.assert_allclose([exact.sum(), np.linalg.norm(exact)], NET["cut_mixed_stats"], rtol=1e-6)
    ratio = float(NET["cut_ratio"])
    close(targets, ratio * labels + (1 - ratio) * labels[NET["cut_perm"]], 1e-7)


def test_cutmix_boxes_golden():
    x = jnp.stack([jnp.zeros((32, 32, 1)), jnp.ones((32, 32, 1))])
    apply = jax.jit(lambda patch: mix(x, jnp.eye(2), patch))
    for lam, row, column, *box, ratio in NET["bbox_table"]:
        centre = jnp.asarray((row, column), jnp.int32)
        mixed, targets = apply(Patch(jnp.float32(lam), centre, jnp.asarray((1, 0), jnp.int32)))
        x1, y1, x2, y2 = (int(side) for side in box)
        want = np.zeros((32, 32))
        want[x1:x2, y1:y2] = 1
        np.testing.assert_array_equal(mixed[0, :, :, 0], want)
        close(targets, [[ratio, 1 - ratio], [1 - ratio, ratio]], 1e-7)


def test_the_box_of_a_rectangular_image_has_its_proportions():
    """If three quarters of the image remain, the box has half of each side."""
    x = jnp.stack([jnp.zeros((16, 8, 1)), jnp.ones((16, 8, 1))])
    patch = Patch(jnp.float32(0.75), jnp.asarray((8, 4)), jnp.asarray((1, 0)))
    mixed, _ = jax.jit(mix)(x, jnp.eye(2), patch)
    want = np.zeros((16, 8))
    want[4:12, 2:6] = 1
    np.testing.assert_array_equal(mixed[0, :, :, 0], want)


def test_cutmix_targets_count_pixels():
    """Image i is the constant i, so the mean of a mixed image follows from its targets."""
    n = 6
    x = jnp.broadcast_to(jnp.arange(n, dtype=jnp.float32)[:, None, None, None], (n, 12, 10, 2))
    step = jax.jit(cutmix)
    means = []
    for key in jax.random.split(KEY, 20):
        mixed, targets = step(key, x, jnp.eye(n), 1.0)
        means.append(jnp.mean(mixed, axis=(1, 2, 3)))
        close(means[-1], jnp.sum(targets * jnp.arange(n, dtype=jnp.float32)[None, :], axis=1), 1e-5)
        close(jnp.sum(targets, axis=1), np.ones(n), 1e-6)
    assert float(jnp.std(jnp.stack(means), axis=0).min()) > 0.1
    for got, want in zip(step(KEY, x, jnp.eye(n), 0.0), (x, jnp.eye(n)), strict=True):
        close(got, want, 0)
    # Half of the batches are not mixed, independently of the size of the box.
    some = jax.jit(jax.vmap(lambda key: cutmix(key, x, jnp.eye(n), 0.5)[1]))(jax.random.split(KEY, 400))
    share = 1 - np.asarray(jnp.min(jnp.max(some, axis=2), axis=1))
    assert 0.4 < np.mean(share > 0) < 0.55
    assert 0.05 < np.mean(share[share > 0] < 0.1) < 0.25


def test_cutmix_keeps_dtypes():
    with jax.enable_x64(True):
        for dtype in (jnp.float64, jnp.float32, jnp.bfloat16):
            x, targets = jax.ShapeDtypeStruct((4, 8, 8, 1), dtype), jax.ShapeDtypeStruct((4, 4), dtype)
            mixed, targets = jax.eval_shape(cutmix, KEY, x, targets, 1.0)
            assert mixed.dtype == targets.dtype == dtype
