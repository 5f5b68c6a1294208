"""Tests the target platform: programs traced for two platforms are never mixed up."""

import ast
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.nets import conv
from distill_jax.nets.conv import conv2d
from distill_jax.platform import compiled_for, on_cpu, target
from distill_jax.recipes import resolve
from distill_jax.run import with_chunks
from tests.test_conv import CASES, assert_close, expected, operands, orders


def test_the_default_backend_unless_told_otherwise() -> None:
    assert target() == jax.default_backend() and on_cpu()
    with compiled_for("gpu"):
        assert target() == "gpu" and not on_cpu()
        with compiled_for("tpu"):
            assert target() == "tpu"
        assert target() == "gpu"
    assert on_cpu()


def test_programs_of_two_targets_do_not_mix() -> None:
    traced = []

    @jax.jit
    def f(x):
        traced.append(target())
        return x + 1

    for _ in range(2):
        f(jnp.zeros(3))
        with compiled_for("gpu"):
            f(jnp.zeros(3))
    assert traced == ["cpu", "gpu"]


# few inputs, few outputs, crops by its mirrored padding, no padding at all, and a stride
FORMS = [
    "few inputs: patches",
    "few outputs: shifts",
    "library",
    "padding 3 as for 28x28",
    "no padding, 5x5",
    "stride 2, 7x7",
]


@pytest.mark.parametrize("platform, case", [*(("gpu", case) for case in FORMS), ("tpu", "library")])
def test_the_form_of_an_accelerator_runs_here_with_the_same_values(platform: Any, case: str) -> None:
    shape, size, outputs, stride, padding = CASES[case]
    with jax.enable_x64(True):
        x, kernel = operands(shape, size, outputs)
        with compiled_for(platform):
            ours = jax.jit(partial(orders, partial(conv2d, stride=stride, padding=padding)))(x, kernel)
        assert_close(ours, expected(x, kernel, stride, padding))


@partial(jax.jit, static_argnums=0)
def on_this_machine(axes, images, kernel):
    return jax.vmap(partial(orders, conv2d), axes)(images, kernel)


@pytest.mark.parametrize("outputs", [3, 17])
@pytest.mark.parametrize("most", [16, 1], ids=["unrolled", "mapped"])
def test_the_form_of_a_gpu_batched_over_kernels(outputs: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with jax.enable_x64(True):
        x, kernel = operands((2, 4, 4, 3), 3, outputs, lead=(2,))
        for axes, images in (((None, 0), x[0]), ((0, 0), x)):
            here = on_this_machine(axes, images, kernel)
            monkeypatch.setattr(conv, "MOST_UNROLLED", most)
            with compiled_for("gpu"):
                there = jax.jit(jax.vmap(partial(orders, conv2d), axes))
                assert_close(there(images, kernel), here)
                narrow = there(images.astype(np.float32), kernel.astype(np.float32))
                jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max()), narrow, here)


def test_nothing_else_asks_for_the_backend() -> None:
    root = Path(__file__).parent.parent / "distill_jax"
    asking = {
        path.name
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "default_backend"
    }
    assert asking == {"platform.py"}


@pytest.mark.parametrize(
    ("recipe", "ipc", "shape", "classes", "on_gpu", "on_tpu"),
    [
        ("cifar10", 1, (32, 32, 3), 10, 10, 1),  # 64 real and 4 synthetic images: 7.5 and 0.9 fit
        ("cifar10", 10, (32, 32, 3), 10, 5, 1),  # 4.9 and 0.6 fit
        ("cifar10", 10, (32, 32, 3), 11, 4, 1),
        ("cifar100", 50, (32, 32, 3), 100, 2, 1),  # 128 of 200 decoded images are shown
        ("tiny", 10, (64, 64, 3), 200, 1, 1),
        ("imagenet10", 10, (224, 224, 3), 10, 1, 1),
        ("digits", 1, (8, 8, 1), 10, 10, 10),  # 126 and 16 fit
    ],
)
def test_as_many_classes_at_once_as_fit(recipe, ipc, shape, classes, on_gpu, on_tpu) -> None:
    spec = resolve("acc_dd", recipe, ipc=ipc, shape=shape).spec
    for platform, chunk in (("gpu", on_gpu), ("tpu", on_tpu), ("another", on_gpu)):
        made = with_chunks(spec, shape, classes, platform)
        assert (made.class_chunk, made.model_chunk) == (chunk, spec.live)
    assert with_chunks(spec, shape, classes, "cpu").class_chunk == 1
    assert with_chunks(replace(spec, class_chunk=5), shape, classes, "gpu").class_chunk == 5
