"""Tests the convolution against ``lax.conv_general_dilated`` and its automatic derivatives, in float64."""

from __future__ import annotations

from functools import partial

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from distill_jax.nets import conv
from distill_jax.nets.conv import average_pool, conv2d, max_pool
from distill_jax.platform import compiled_for

NHWC = ("NHWC", "HWIO", "NHWC")


def reference(x, kernel, stride, padding):
    padding = kernel.shape[0] // 2 if padding is None else padding
    pads = ((padding, padding), (padding, padding))
    return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=NHWC)


def operands(shape, size, outputs, lead=()):
    """Return x [*lead, n, h, w, i] and kernel [*lead, size, size, i, outputs]."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(*lead, *shape)), rng.normal(size=(*lead, size, size, shape[-1], outputs)) / size


def orders(convolution, x, kernel):
    """Return the convolution, its gradients, and the gradients of a non-linear function of these (so none vanish).

    All are outputs of one nested derivative, so that the convolution is traced once."""

    def first(x, kernel):
        def summed(x, kernel):
            out = convolution(x, kernel)
            return jnp.sum(jnp.sin(out)), out

        return jax.grad(summed, (0, 1), has_aux=True)(x, kernel)

    def second(x, kernel):
        (dx, dk), out = first(x, kernel)
        return jnp.sum(jnp.sin(dx)) + jnp.sum(dk**2), (out, (dx, dk))

    seconds, (out, firsts) = jax.grad(second, (0, 1), has_aux=True)(x, kernel)
    return out, firsts, seconds


@partial(jax.jit, static_argnums=(2, 3))
def expected(x, kernel, stride, padding):
    """Return ``orders`` of the reference. The tests of all platforms share its programs."""
    return orders(lambda x, kernel: reference(x, kernel, stride, padding), x, kernel)


def assert_close(ours, theirs):
    def compare(a, b):
        np.testing.assert_allclose(a, b, atol=1e-10 * np.abs(b).max(), rtol=0)

    jax.tree.map(compare, ours, theirs)


CASES = {
    "few inputs: patches": ((2, 6, 5, 3), 3, 17, 1, None),
    "few outputs: shifts": ((2, 6, 5, 17), 3, 2, 1, None),
    "library": ((2, 5, 5, 17), 3, 16, 1, None),
    "winograd": ((2, 4, 6, 64), 3, 65, 1, None),
    "winograd, odd sides": ((1, 3, 5, 64), 3, 64, 1, None),
    "padding 3 as for 28x28": ((2, 4, 4, 1), 3, 16, 1, 3),
    "padding 3, winograd": ((1, 4, 4, 64), 3, 64, 1, 3),
    "no padding, 5x5": ((2, 7, 6, 16), 5, 16, 1, 0),
    "stride 2": ((2, 6, 7, 16), 3, 17, 2, 1),
    "stride 2, few channels": ((2, 7, 6, 3), 3, 4, 2, 1),
    "stride 2, 7x7": ((1, 8, 8, 3), 7, 16, 2, 3),
    "pointwise, stride 2": ((2, 5, 6, 3), 1, 4, 2, 0),
}


@pytest.mark.parametrize("on_cpu", [True, False], ids=["cpu", "accelerator"])
@pytest.mark.parametrize("case", CASES)
def test_two_orders_of_derivatives(case, on_cpu, monkeypatch):
    if not on_cpu and not case.startswith(("library", "stride 2, few")):
        pytest.skip("one form on accelerators")
    monkeypatch.setattr(conv, "on_cpu", lambda: on_cpu)
    shape, size, outputs, stride, padding = CASES[case]
    with jax.enable_x64(True):
        x, kernel = operands(shape, size, outputs)
        ours = jax.jit(partial(orders, partial(conv2d, stride=stride, padding=padding)))(x, kernel)
        assert_close(ours, expected(x, kernel, stride, padding))


@pytest.mark.parametrize("on_cpu", [True, False], ids=["cpu", "accelerator"])
@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)], ids=["images", "kernels", "both"])
@pytest.mark.parametrize(("shape", "outputs", "stride"), [((2, 4, 4, 2), 3, 1), ((1, 4, 4, 16), 16, 2)])
def test_batched_equals_a_loop(shape, outputs, stride, axes, on_cpu, monkeypatch):
    monkeypatch.setattr(conv, "on_cpu", lambda: on_cpu)
    with jax.enable_x64(True):
        x, kernel = operands(shape, 3, outputs, lead=(2,))
        x, kernel = (each if axis == 0 else each[0] for each, axis in zip((x, kernel), axes, strict=True))
        batched = jax.jit(jax.vmap(partial(orders, partial(conv2d, stride=stride, padding=1)), axes))(x, kernel)
        pairs = [
            expected(*(each[b] if axis == 0 else each for each, axis in zip((x, kernel), axes, strict=True)), stride, 1)
            for b in range(2)
        ]
        assert_close(batched, jax.tree.map(lambda *leaves: np.stack(leaves), *pairs))


@pytest.mark.parametrize("on_cpu", [True, False], ids=["cpu", "accelerator"])
def test_classes_within_models_inside_scan(on_cpu, monkeypatch):
    """Maps [K, ...] kernels over [C, ...] images inside a loop, as the distillation step does."""
    monkeypatch.setattr(conv, "on_cpu", lambda: on_cpu)
    with jax.enable_x64(True):
        x, kernel = operands((2, 4, 4, 3), 3, 2, lead=(2,))

        def nested(convolution):
            return jax.vmap(jax.vmap(partial(orders, convolution), (0, None)), (None, 0))

        def scanned(x, kernel):
            _, out = lax.scan(lambda c, each: (c, nested(conv2d)(each, kernel)), None, jnp.stack([x, 2 * x]))
            return jax.tree.map(lambda leaf: leaf[1], out)

        theirs = jax.vmap(jax.vmap(lambda x, kernel: expected(x, kernel, 1, 1), (0, None)), (None, 0))
        assert_close(jax.jit(scanned)(x, kernel), theirs(2 * x, kernel))


def test_no_grouped_or_uncanonical_convolution_inside_a_loop():
    """XLA:CPU would compute these with its naive kernel, which the whole module exists to avoid."""
    x, kernel = jnp.zeros((2, 1, 5, 5, 16)), jnp.zeros((2, 5, 5, 16, 16))

    def sweep(x, kernel):
        return lax.map(lambda pair: orders(conv2d, *pair), (x, kernel))

    seen = []

    def walk(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive is lax.conv_general_dilated_p:
                seen.append(eqn.params)
            for inner in jax.extend.core.jaxprs_in_params(eqn.params):
                walk(inner)

    walk(jax.make_jaxpr(jax.vmap(sweep))(x[None], kernel[None]).jaxpr)
    assert seen
    canonical = lax.conv_dimension_numbers(x.shape[1:], kernel.shape[1:], NHWC)
    for params in seen:
        assert params["dimension_numbers"] == canonical
        assert params["feature_group_count"] == params["batch_group_count"] == 1
        assert params["lhs_dilation"] == params["rhs_dilation"] == (1, 1)


def test_average_pool():
    x = np.arange(2 * 5 * 4 * 3, dtype=np.float32).reshape(2, 5, 4, 3)
    windows = jax.jit(lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4)
    pool = jax.jit(average_pool, static_argnums=1)
    np.testing.assert_allclose(pool(x, 2), windows(x))
    with compiled_for("tpu"):
        np.testing.assert_allclose(pool(x, 2), windows(x))
    assert jax.eval_shape(average_pool, x).shape == (2, 2, 2, 3), "a window of two by default"
    assert jax.eval_shape(partial(average_pool, window=4), x).shape == (2, 1, 1, 3)


def test_max_pool_and_its_derivatives():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, v = rng.normal(size=(2, 1, 5, 6, 2))

        def theirs(x):
            pads = ((0, 0), (1, 1), (1, 1), (0, 0))
            return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), pads)

        def ours(x):
            return max_pool(x, 3, stride=2, padding=1)

        def gradient(pool, x):
            """Return the gradient and, as a by-product, what is pooled."""

            def summed(x):
                out = pool(x)
                return jnp.sum(jnp.sin(out)), out

            return jax.grad(summed, has_aux=True)(x)

        @jax.jit
        def compute(x):
            second, of_ours = jax.grad(lambda x: pulled(gradient(ours, x)), has_aux=True)(x)
            return second, of_ours, gradient(theirs, x), jax.grad(lambda x: jnp.sum(theirs(x)))(x)

        def pulled(gradient_and_pooled):
            return jnp.vdot(gradient_and_pooled[0], v), gradient_and_pooled

        second, (slope, pooled), (their_slope, their_pooled), selected = compute(x)
        np.testing.assert_array_equal(pooled, their_pooled)
        np.testing.assert_allclose(slope, their_slope, rtol=1e-12)
        # The pool only selects, so its Hessian is that of sin at the selected elements.
        np.testing.assert_allclose(second, -np.asarray(selected) * np.sin(x) * v, atol=1e-12)
