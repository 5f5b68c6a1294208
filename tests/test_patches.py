"""Tests the patches with the highest confidence against the released code of RDED (golden README, "Newer methods")."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.axes.init import tile
from distill_jax.axes.init.patches import RealPatches, losses, patches, surest
from distill_jax.nets import ConvNet, from_torch
from distill_jax.types import Array, Model, Normaliser, RealData, RequestError
from tests.golden_weights import golden_figures, pixels

FIGURES = golden_figures("newer")
SHAPE, CLASS = (16, 16, 3), 1
MEAN, STD = (np.asarray(a, np.float32) for a in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


NET = ConvNet(2, 8, norm="batch").build(SHAPE, 4)


def observer() -> Model:
    shapes = [tuple(int(n) for n in shape if n) for shape in FIGURES["rded_shapes"]]
    ends = np.cumsum([np.prod(shape) for shape in shapes])[:-1]
    pieces = np.split(FIGURES["rded_theta"], ends)
    weights = {str(n): p.reshape(s) for n, p, s in zip(FIGURES["rded_names"], pieces, shapes, strict=True)}
    for d in range(2):
        weights |= {f"{d}.running_mean": FIGURES["rded_bn_mean"][d], f"{d}.running_var": FIGURES["rded_bn_var"][d]}
    return from_torch(NET, weights)


def normalised(x: Array | np.ndarray) -> Array:
    return Normaliser(jnp.asarray(MEAN), jnp.asarray(STD)).to_network(jnp.asarray(x))


@pytest.mark.parametrize(("factor", "ipc"), [(2, 3), (1, 5)])
def test_patches_scores_and_mosaics_golden(factor: int, ipc: int) -> None:
    def theirs(name: str) -> np.ndarray:
        return FIGURES[f"rded_f{factor}_{name}"]

    model, size = observer(), (16 // factor, 16 // factor)
    images, boxes = jnp.asarray(pixels(FIGURES["rded_src_u8"])), jnp.asarray(FIGURES["rded_boxes"])
    cut = jax.jit(jax.vmap(lambda image, boxes: normalised(patches(image, boxes, size))))(images, boxes)
    np.testing.assert_allclose(cut[:3], np.moveaxis(theirs("crops"), 2, -1), atol=5e-6)
    scores = jax.jit(lambda x: losses(NET, model, x, SHAPE, CLASS))(cut.reshape(-1, *cut.shape[2:])).reshape(20, 5)
    np.testing.assert_allclose(scores.T, theirs("scores"), rtol=0, atol=1.1e-5 * theirs("scores").max())
    np.testing.assert_array_equal(jnp.argmin(scores, axis=1), theirs("best_crop"))
    image, crop = surest(scores, ipc * factor**2)
    np.testing.assert_array_equal(image, theirs("order"))
    np.testing.assert_array_equal(crop, theirs("best_crop")[theirs("order")])
    chosen = cut[image, crop]
    np.testing.assert_allclose(chosen[:2], np.moveaxis(theirs("selected0"), 1, -1), atol=5e-6)
    mosaic = tile(chosen, ipc, factor, SHAPE[:2])
    np.testing.assert_allclose(mosaic, np.moveaxis(theirs("mosaic"), 1, -1), atol=5e-6)


def test_boxes_are_squares_inside_the_image() -> None:
    top, left, height, width = np.moveaxis(
        np.asarray(RealPatches().boxes(jax.random.key(0), (500, 5), (24, 30, 3))), -1, 0
    )
    assert (height == width).all() and top.min() == left.min() == 0
    assert (top + height).max() == 24 and (left + width).max() == 30
    # The least area is 8 % of 24 x 30, the largest square 24 x 24.
    assert height.min() == 8 and height.max() == 24


@pytest.mark.parametrize(("factor", "side"), [(1, 16), (2, 17)])
def test_the_images_are_of_their_class_the_surest_first(factor: int, side: int) -> None:
    """The images are constant, so a patch shows its source image."""
    labels = np.repeat([0, 1, 2, 3], [9, 7, 8, 9])
    shape = (side, side, 3)
    images = np.broadcast_to(np.arange(len(labels), dtype=np.uint8)[:, None, None, None] * 7, (len(labels), *shape))
    data = RealData.from_arrays(images, labels, MEAN, STD)
    net = ConvNet(2, 8, norm="batch").build(shape, 4)
    model = net.init(jax.random.key(1))
    init, ipc = RealPatches(candidates=7), 4 // factor**2
    made = jax.jit(init.images, static_argnums=(0, 3, 4))(net, model, data, ipc, factor, jax.random.key(0))
    assert made.shape == (4, ipc, *shape) and float(made.min()) >= 0 and float(made.max()) <= 1
    cells = np.asarray(made)[:, :, [0, -1]][:, :, :, [0, -1], 0] if factor == 2 else np.asarray(made)[:, :, 0, 0, 0]
    shown = np.round(cells.reshape(4, 4) * 255 / 7).astype(int)
    np.testing.assert_array_equal(labels[shown], np.repeat([0, 1, 2, 3], 4).reshape(4, 4))
    assert all(len(set(row.tolist())) == 4 for row in shown)


def test_bad_requests() -> None:
    for bad in (RealPatches(candidates=0), RealPatches(crops=0), RealPatches(smallest=0.0)):
        with pytest.raises(RequestError, match="init"):
            bad.validate()
    RealPatches(candidates=8).check([9, 8], 2, 2)
    with pytest.raises(RequestError, match="--init.candidates 8"):
        RealPatches(candidates=7).check([9, 8], 2, 2)
    with pytest.raises(RequestError, match="only 7: .*--init mix"):
        RealPatches().check([9, 7], 2, 2)
