"""Tests the patches with the highest confidence against the released code of RDED (golden README, "Newer methods")."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.axes.init import patches as patches_module
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
    images, boxes = pixels(FIGURES["rded_src_u8"]), FIGURES["rded_boxes"]

    @jax.jit
    def computed(images: Array, boxes: Array):
        cut = jax.vmap(lambda image, boxes: normalised(patches(image, boxes, size)))(images, boxes)
        scores = losses(NET, model, cut.reshape(-1, *cut.shape[2:]), SHAPE, CLASS).reshape(20, 5)
        image, crop = surest(scores, ipc * factor**2)
        chosen = cut[image, crop]
        return cut, scores, image, crop, chosen, tile(chosen, ipc, factor, SHAPE[:2])

    cut, scores, image, crop, chosen, mosaic = jax.device_get(computed(images, boxes))
    np.testing.assert_allclose(cut[:3], np.moveaxis(theirs("crops"), 2, -1), atol=5e-6)
    np.testing.assert_allclose(scores.T, theirs("scores"), rtol=0, atol=1.1e-5 * theirs("scores").max())
    np.testing.assert_array_equal(np.argmin(scores, axis=1), theirs("best_crop"))
    np.testing.assert_array_equal(image, theirs("order"))
    np.testing.assert_array_equal(crop, theirs("best_crop")[theirs("order")])
    np.testing.assert_allclose(chosen[:2], np.moveaxis(theirs("selected0"), 1, -1), atol=5e-6)
    np.testing.assert_allclose(mosaic, np.moveaxis(theirs("mosaic"), 1, -1), atol=5e-6)


def boxes_of(init: RealPatches, dims: tuple[int, ...], shape: tuple[int, int, int]) -> np.ndarray:
    return np.asarray(jax.jit(init.boxes, static_argnums=(1, 2))(jax.random.key(0), dims, shape))


def test_boxes_are_squares_inside_the_image() -> None:
    top, left, height, width = np.moveaxis(boxes_of(RealPatches(), (500, 5), (24, 30, 3)), -1, 0)
    assert (height == width).all() and top.min() == left.min() == 0
    assert (top + height).max() == 24 and (left + width).max() == 30
    # The least area is 8 % of 24 x 30, the largest square 24 x 24.
    assert height.min() == 8 and height.max() == 24


def test_areas_and_places_of_boxes_are_uniform_and_independent() -> None:
    """All limits are five standard errors."""
    boxes = boxes_of(RealPatches(smallest=0.2), (4000,), (64, 64, 3)).astype(np.float64)
    for share in (0.1, 0.5, 0.9):
        limit = 5 * np.sqrt(share * (1 - share) / len(boxes))
        assert np.mean(boxes[:, 2] ** 2 / 64**2 < 0.2 + 0.8 * share) == pytest.approx(share, abs=limit)
    top, left, side, _ = boxes[boxes[:, 2] < 48].T  # larger boxes have few places
    down, across = (top + 0.5) / (65 - side), (left + 0.5) / (65 - side)
    for place in (down, across):
        assert np.mean(place) == pytest.approx(0.5, abs=5 / np.sqrt(12 * len(side)))
    assert np.abs(np.corrcoef([side, down, across]) - np.eye(3)).max() < 5 / np.sqrt(len(side))


def test_each_cell_shows_the_surest_patch_of_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images have four constant quarters, which are the patches. The loss of class c is least for a patch with the
    value c in network space. The run distils class 1 before class 0. Class 1 has fewer images, none of which is shown
    twice."""
    counts, mean, std = (6, 5), 0.5, 0.2
    labels = np.repeat([0, 1], counts)
    quarters = np.random.default_rng(0).permutation(256)[: 4 * len(labels)].reshape(-1, 2, 2)
    images = quarters.repeat(4, axis=1).repeat(4, axis=2)[..., None]
    corners = jnp.asarray([[top, left, 4, 4] for top in (0, 4) for left in (0, 4)])
    monkeypatch.setattr(RealPatches, "boxes", lambda self, key, dims, shape: jnp.broadcast_to(corners, (*dims, 4)))

    def distance(net, model, x: Array, shape, c: Array) -> Array:
        return jnp.abs(jnp.mean(x, axis=(1, 2, 3)) - jnp.asarray(c, x.dtype))

    monkeypatch.setattr(patches_module, "losses", distance)
    data = RealData.from_arrays(images, labels, [mean], [std]).of_classes((1, 0))
    init: Any = RealPatches(crops=4)
    made = jax.jit(lambda data, key: init.images(None, None, data, 1, 2, key))(data, jax.random.key(2))
    shown = np.asarray(made)[:, 0, ::4, ::4, 0].reshape(2, 4) * 255
    for row, c in enumerate((1, 0)):
        patch = quarters[labels == c].reshape(-1, 4)
        far = np.abs((patch / 255 - mean) / std - c)
        best = np.argsort(far.min(axis=1))[:4]
        np.testing.assert_allclose(shown[row], patch[best, far[best].argmin(axis=1)], atol=1e-3)


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
    images_of = jax.jit(init.images, static_argnums=(0, 3, 4))
    made = np.asarray(images_of(net, model, data, ipc, factor, jax.random.key(0)))
    assert made.shape == (4, ipc, *shape) and made.min() >= 0 and made.max() <= 1
    cells = made[:, :, [0, -1]][:, :, :, [0, -1], 0] if factor == 2 else made[:, :, 0, 0, 0]
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
