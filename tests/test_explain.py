"""Costs of programs that can be counted by hand."""

import jax
import jax.numpy as jnp
import pytest

from distill_jax.nets.conv import conv2d
from experiments.cost import Cost, cost


def ones(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_matmul():
    assert cost(jnp.matmul, ones(3, 4), ones(4, 5)) == Cost(2 * 3 * 4 * 5, 4 * (12 + 20 + 15))
    assert cost(jnp.matmul, ones(7, 3, 4), ones(7, 4, 5)).flops == 7 * 2 * 3 * 4 * 5


@pytest.mark.parametrize(("groups", "stride"), [(1, 1), (2, 1), (1, 2)])
def test_convolution(groups: int, stride: int):
    def conv(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
        )

    counted = cost(conv, ones(2, 8, 8, 4), ones(3, 3, 4 // groups, 6))
    assert counted.flops == 2 * (2 * (8 // stride) ** 2 * 6) * (9 * 4 // groups)


def test_scan_counts_as_often_as_it_runs():
    def repeated(x):
        return jax.lax.scan(lambda x, _: (x @ x, None), x, None, length=11)[0]

    assert cost(repeated, ones(3, 3)).flops == 11 * 2 * 27
    assert cost(jax.jit(repeated), ones(3, 3)) == cost(repeated, ones(3, 3))
    assert cost(lambda x: jax.lax.map(repeated, x), ones(5, 3, 3)).flops == 5 * 11 * 2 * 27


def test_a_loop_of_unknown_length_counts_once_and_is_said():
    def until(x, n):
        return jax.lax.fori_loop(0, n, lambda i, x: x @ x, x)

    assert cost(until, ones(3, 3), jax.ShapeDtypeStruct((), jnp.int32))[::2] == (2 * 27, 1)
    assert cost(lambda x: until(x, 4), ones(3, 3))[::2] == (4 * 2 * 27, 0)


def test_the_dearest_branch_counts():
    def either(yes, x):
        return jax.lax.cond(yes, lambda x: x @ x, lambda x: x @ x @ x, x)

    assert cost(either, jax.ShapeDtypeStruct((), jnp.bool_), ones(3, 3)).flops == 2 * 2 * 27


def test_checkpointing_and_custom_derivatives_are_seen_through():
    x, kernel = ones(1, 4, 4, 16), ones(3, 3, 16, 16)
    forward = cost(conv2d, x, kernel).flops
    assert forward == 2 * 16 * 16 * 9 * 16

    def loss(x, kernel):
        return jnp.sum(conv2d(x, kernel) ** 2)

    assert cost(jax.grad(loss, (0, 1)), x, kernel).flops == 3 * forward
    assert cost(jax.grad(loss), x, kernel).flops == 2 * forward  # nobody reads the kernel's gradient
    assert cost(jax.value_and_grad(jax.checkpoint(loss)), x, kernel).flops == 3 * forward  # there, again, and back
