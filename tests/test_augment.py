"""Tests Siamese augmentation against golden section 6, and its properties."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.augment import MEMBERS, Draws, NoAugment, Siamese, crop, cutout
from distill_jax.contracts import Augmentation
from distill_jax.platform import compiled_for
from distill_jax.types import RequestError
from tests.golden_weights import cifar_normalised, golden_figures

ALL = "color_crop_cutout_flip_scale_rotate"
FIGURES = golden_figures("augment")
CASES = sorted(k.removesuffix("__out") for k in FIGURES if k.startswith("b") and k.endswith("__out"))
KEY = jax.random.key(7)
OPERATIONS = {operation.__name__: operation for member in MEMBERS.values() for operation in member}
APPLY = {name: jax.jit(operation) for name, operation in OPERATIONS.items()}
EACH = {name: jax.jit(jax.vmap(lambda image, u, f=f: f(image[None], u)[0])) for name, f in OPERATIONS.items()}


def nhwc(x):
    return np.asarray(x).transpose(0, 2, 3, 1)


def golden_input(n=4, side=32):
    return cifar_normalised(FIGURES["x_u8"][:n, :, :side, :side])


def close(got, want, tolerance):
    np.testing.assert_allclose(np.asarray(got, np.float64), np.asarray(want, np.float64), rtol=0, atol=tolerance)


# ------------------------------------------------------------------ operations


def numbers(name, param, side):
    """Return the uniform numbers [..., 2] that make an operation draw the parameters of the golden figures."""
    param = np.asarray(param, np.float64).reshape(len(param), -1).T  # [n or 1, draws]
    if name in ("crop", "translate"):
        limit = int(0.125 * side + 0.5)
        param = (param + limit + 0.5) / (2 * limit + 1)
    if name == "cutout":
        size = int(0.5 * side + 0.5)
        param = (param + 0.5) / (side + 1 - size % 2)
    return np.broadcast_to(param, (len(param), 2)).astype(np.float32)


@pytest.mark.parametrize("case", CASES)
def test_operation_golden(case):
    kind, name = case.split("_")[:2]
    out = nhwc(FIGURES[f"{case}__out"])
    x = nhwc(FIGURES["x28"]) if kind == "bt28" else golden_input(len(out))
    param = FIGURES[f"{case}__param"]
    if kind == "bf":  # one draw per image, on the last axis
        got = EACH[name](x, numbers(name, np.atleast_2d(param), 32))
    else:
        got = APPLY[name](x, numbers(name, param, x.shape[1])[0])
    tolerance = {"crop": 0, "cutout": 0, "flip": 0, "translate": 0, "scale": 5e-5, "rotate": 5e-5}.get(name, 1e-6)
    close(got, out, tolerance)


@pytest.mark.parametrize(("name", "u"), [("rotate", 0.8), ("contrast", 0.9)])
def test_gradient_golden(name, u):
    x = golden_input(2)
    weight = np.cos(0.11 * np.arange(x.size)).reshape(2, 3, 32, 32)

    def loss(x):
        return jnp.sum(APPLY[name](x, np.full(2, u, np.float32)) * nhwc(weight.astype(np.float32)))

    close(jax.jit(jax.grad(loss))(x), nhwc(FIGURES[f"grad_{name}__dx"]), 5e-5 if name == "rotate" else 1e-6)


def sampled(image, row, column):
    """Sample one pixel as PyTorch's grid_sample: bilinear, zero outside."""
    out = np.zeros_like(image)
    for at in np.ndindex(row.shape):
        for i in (int(np.floor(row[at])), int(np.floor(row[at])) + 1):
            for j in (int(np.floor(column[at])), int(np.floor(column[at])) + 1):
                if 0 <= i < image.shape[0] and 0 <= j < image.shape[1]:
                    out[at] += (1 - abs(row[at] - i)) * (1 - abs(column[at] - j)) * image[i, j]
    return out


@pytest.mark.parametrize("name", ["scale", "rotate"])
@pytest.mark.parametrize("u", [(0.1, 0.7), (0.95, 0.3)])
def test_square_images_are_moved_as_with_aligned_corners(name, u):
    """Follows the documentation of PyTorch's affine_grid and grid_sample with align_corners=True, as MTT calls them."""
    x = np.random.default_rng(3).standard_normal((2, 9, 9, 3))
    if name == "scale":
        theta = np.diag([v * (1.2 - 1 / 1.2) + 1 / 1.2 for v in u])
    else:
        angle = np.deg2rad(30 * u[0] - 15)
        theta = np.asarray([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    line = np.linspace(-1, 1, 9)
    grid = np.stack(np.meshgrid(line, line), -1) @ theta.T
    column, row = (grid[..., 0] + 1) / 2 * 8, (grid[..., 1] + 1) / 2 * 8
    want = np.stack([sampled(image, row, column) for image in x])
    assert [operation.__name__ for operation in MEMBERS[name]] == [name]
    with jax.enable_x64(True):
        close(APPLY[name](x, np.asarray(u)), want, 1e-12)


@pytest.mark.parametrize("name", ["scale", "rotate"])
def test_rectangular_images_are_moved_edge_to_edge(name):
    """Follows the documentation of PyTorch's affine_grid and grid_sample with align_corners=False."""
    u, (height, width) = (0.9, 0.2), (7, 10)
    x = np.random.default_rng(4).standard_normal((2, height, width, 1))
    if name == "scale":
        theta = np.diag([v * (1.2 - 1 / 1.2) + 1 / 1.2 for v in u])
    else:
        angle = np.deg2rad(30 * u[0] - 15)
        theta = np.asarray([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    across, down = ((2 * np.arange(side) + 1) / side - 1 for side in (width, height))
    grid = np.stack(np.meshgrid(across, down), -1) @ theta.T
    column, row = ((grid[..., a] + 1) * side / 2 - 0.5 for a, side in enumerate((width, height)))
    want = np.stack([sampled(image, row, column) for image in x])
    with jax.enable_x64(True):
        close(APPLY[name](x, np.asarray(u)), want, 1e-12)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_is_affine_with_exact_second_derivative(name):
    """In float64 on rectangular images: jit equals eager, |out|^2 / 2 has gradient A^T A x and Hessian A^T A."""
    with jax.enable_x64(True):
        x, v = jnp.asarray(np.random.default_rng(0).standard_normal((2, 2, 12, 8, 3)))
        u = jnp.asarray((0.3, 0.8), jnp.float32)
        apply = APPLY[name]
        out = OPERATIONS[name](x, u)
        assert out.dtype == jnp.float64 and out.shape == x.shape

        @jax.jit
        def second(x, v):
            square = jax.grad(lambda x: 0.5 * jnp.sum(apply(x, u) ** 2))
            moved = apply(x + v, u) - apply(x, u)  # A v
            compiled, transposed = jax.vjp(lambda x: apply(x, u), x)
            return compiled, jax.jvp(square, (x,), (v,))[1], transposed(moved)[0]

        compiled, hessian_v, want = second(x, v)
        close(compiled, out, 1e-12)
        close(hessian_v, want, 1e-10)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_in_bfloat16(name):
    x = golden_input(2, 8)  # the programs of test_dsa_applies_exactly_one_member
    u = np.asarray((0.3, 0.8), np.float32)
    low = APPLY[name](x.astype(jnp.bfloat16), u)
    assert low.dtype == jnp.bfloat16
    close(low, APPLY[name](x, u), 0.05)


@pytest.mark.parametrize(("side", "other"), [(32, 12), (27, 30)])
def test_shift_and_box_cover_their_range(side, other):
    """Every shift and every box centre occurs about equally often, also at the ends of [0, 1)."""
    ends = np.asarray([[0, 0], [1, 1], [1, 0], [0, 1]]) * np.float32(1 - 2**-24)
    u = np.concatenate([ends, np.random.default_rng(7).random((4000, 2), np.float32)]).astype(np.float32)
    # The pixels are their own coordinates, so the middle, which zeros never reach, shows the shift.
    where = jax.device_put(np.moveaxis(np.indices((side, other), np.float32), 0, -1))
    cropped = np.asarray(jax.jit(jax.vmap(partial(crop, where[None])))(u))
    shifts = cropped[:, 0, side // 2, other // 2]
    with compiled_for("tpu"):
        np.testing.assert_array_equal(jax.jit(jax.vmap(partial(crop, where[None])))(u[:8]), cropped[:8])
    ones = jax.device_put(np.ones((1, side, other, 1), np.float32))
    boxes = np.asarray(jax.jit(jax.vmap(lambda u: cutout(ones, u)[0, :, :, 0]))(u)) == 0
    for axis, length in enumerate((side, other)):
        limit, size = int(0.125 * length + 0.5), int(0.5 * length + 0.5)
        values, counts = np.unique(shifts[:, axis] - length // 2, return_counts=True)
        np.testing.assert_array_equal(values, np.arange(-limit, limit + 1))
        assert counts.min() > 0.75 * counts.mean()
        last = length if size % 2 == 0 else length - 1  # last centre; boxes are clipped to the image
        lines = np.any(boxes, axis=2 - axis)
        seen = {tuple(np.flatnonzero(line)) for line in np.unique(lines, axis=0)}
        begin = [centre - size // 2 for centre in range(last + 1)]
        assert seen == {tuple(range(max(0, b), min(length, b + size))) for b in begin}


# ------------------------------------------------------------------ strategies


def color(u_brightness, u_saturation, u_contrast):
    return np.asarray([[u, u] for u in (u_brightness, u_saturation, u_contrast)], np.float32)


def test_matching_pipeline_golden():
    p = FIGURES["pipe_match__param"]
    u = dict(color=color(*p[:3]), crop=numbers("crop", p[4:6], 32), cutout=numbers("cutout", p[6:8], 32))
    got = jax.jit(Siamese("color_crop_cutout").apply)(golden_input(2), Draws(*jax.device_put((np.float32(0), u))))
    close(got, nhwc(FIGURES["pipe_match__out"]), 2e-6)


EVALUATION = jax.jit(Siamese("color_crop_flip_scale_rotate").apply)


@pytest.mark.parametrize("member", ["crop", "scale", "rotate"])
def test_evaluation_pipeline_golden(member):
    p = FIGURES[f"pipe_eval_{member}__param"]
    u = dict.fromkeys(("crop", "scale", "rotate"), np.full((1, 2), 0.5, np.float32))
    u |= {"flip": numbers("flip", p[:1], 32), "color": color(*p[1:4]), member: numbers(member, p[5:], 32)}
    got = EVALUATION(golden_input(1), Draws(*jax.device_put((np.float32((p[4] + 0.5) / 3), u))))
    close(got, nhwc(FIGURES[f"pipe_eval_{member}__out"]), 2e-6 if member == "crop" else 1e-4)


def test_stages_of_the_two_rules():
    idc, dsa = Siamese("cutout_rotate_color_crop_flip"), Siamese("cutout_rotate_color_crop_flip", "one")
    assert idc.stages == (("flip",), ("color",), ("rotate", "crop"), ("cutout",))
    assert dsa.stages == (("cutout", "rotate", "color", "crop", "flip"),)


def test_dsa_applies_exactly_one_member():
    x, augment = golden_input(2, 8), Siamese(ALL, "one")
    u = jax.tree.map(lambda v: np.asarray(v)[0], jax.jit(augment.draw, static_argnums=1)(KEY, 1).u)
    apply = jax.jit(augment.apply)
    for i, member in enumerate(augment.members):
        want = x
        for operation, numbers_of_it in zip(MEMBERS[member], u[member], strict=True):
            want = APPLY[operation.__name__](want, numbers_of_it)
        for choice in (i / 6 + 1e-6, (i + 1) / 6 - 1e-6):
            # The two programs may fuse and sum in different orders. Colour has three operations of a few roundings
            # each, one with a mean over 192 values that is then scaled by up to 2.
            rounding = np.finfo(np.float32).eps * np.abs(want).max()
            close(apply(x, Draws(*jax.device_put((np.float32(choice), u)))), want, 16 * rounding)


def test_draws_are_independent():
    choice, u = jax.jit(jax.vmap(lambda key: Siamese(ALL).draw(key, 3)))(jax.random.split(KEY, 2000))
    table = np.concatenate([np.asarray(v).reshape(2000, -1) for v in (choice, *u.values())], axis=1)
    assert table.shape == (2000, 1 + 3 * 8 * 2) and table.min() >= 0 and table.max() < 1
    assert np.abs(table.mean(axis=0) - 0.5).max() < 0.03
    assert np.abs(np.corrcoef(table.T) - np.eye(table.shape[1])).max() < 0.1


def test_switch_only_where_there_is_a_choice():
    def conditionals(augment):
        return str(jax.make_jaxpr(augment)(KEY, golden_input(1))).count("cond[")

    assert conditionals(Siamese("color_crop_cutout")) == 0
    assert conditionals(Siamese("flip", "one")) == 0
    assert conditionals(Siamese("color_crop_scale")) == 1


def test_one_draw_for_all_or_one_per_image():
    """Siamese transforms an image equally in any batch and under vmap; with ``each``, equal images differ."""
    augment, x, keys = Siamese("color_crop_scale_flip"), golden_input(4, 8), jax.random.split(KEY, 6)
    call, each = jax.jit(augment), jax.jit(augment.each)
    together = np.stack([call(key, x) for key in keys])
    close(jax.jit(jax.vmap(augment, (0, None)))(keys, x[2:]), together[:, 2:], 1e-5)
    alike = np.tile(x[:1], (4, 1, 1, 1))
    assert np.ptp(call(KEY, alike), axis=0).max() < 1e-5
    apart = np.asarray(each(KEY, alike))
    assert np.ptp(apart, axis=0).max() > 0.1
    close(np.asarray(each(KEY, x))[0], apart[0], 1e-5)


def test_each_chooses_for_the_whole_batch():
    """Colour keeps constant images constant and cutout does not, so all images must be constant or none."""
    augment, x = jax.jit(Siamese("color_cutout", "one").each), np.ones((6, 8, 8, 3), np.float32)
    seen = set()
    for key in jax.random.split(KEY, 8):
        out = np.asarray(augment(key, x))
        kinds = {bool(cut) for cut in np.any(out == 0, axis=(1, 2, 3))}
        assert len(kinds) == 1
        seen |= kinds
    assert seen == {True, False}


def test_identities():
    x = golden_input(2)
    for augment in (NoAugment(), Siamese(""), Siamese("flip").without("flip"), Siamese("", "one")):
        assert isinstance(augment, Augmentation)
        close(jax.jit(augment)(KEY, x), x, 0)
        close(jax.jit(augment.each)(KEY, x), x, 0)


def test_choices_compare_by_value():
    assert Siamese("color_crop_flip").without("flip") == Siamese("color_crop")
    assert hash(Siamese("color", "one")) == hash(Siamese("color", "one")) != hash(Siamese("color"))
    assert Siamese("color").without("flip") == Siamese("color")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("colour_crop",), "'color'"),
        (("color_cutuot",), "'cutout'"),
        (("color__crop",), "strategy names ''"),
        (("crop_crop",), "twice"),
        (("crop", "two"), "'one-geometric' or 'one'"),
    ],
)
def test_bad_strategies(arguments, words):
    with pytest.raises(RequestError, match=words) as error:
        Siamese(*arguments).validate()
    assert "\n" not in str(error.value)
