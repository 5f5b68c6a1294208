"""Tests that devices share classes, networks, repeats and sweep points, in a process that splits the CPU into eight."""

from __future__ import annotations

import json
import os
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.scaling import GATHERED
from distill_jax import mesh
from distill_jax.cli.process.backend import physical_cores, share_processors
from distill_jax.nets import ConvNet
from distill_jax.platform import compiled_for
from tests.on_devices import QUESTIONS
from tests.tiny import python

TOGETHER = {8: ("sweep acc_dd", "rest", "lone", "collectives acc_dd 8 16 1", "explain")}
"""devices -> the questions of the fast tests, which one process answers together"""


@cache
def said(devices: int, *questions: str) -> list[Any]:
    """Return the answers of ``tests.on_devices`` from a process with ``devices`` devices."""
    flags = re.sub(r"(device_count)=\d+", rf"\1={devices}", os.environ["XLA_FLAGS"])
    process = python("-m", "tests.on_devices", *questions, XLA_FLAGS=flags)
    answers, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]
    return json.loads(answers.splitlines()[-1])


def on(devices: int, question: str, *more: str) -> Any:
    together = TOGETHER.get(devices, ())
    asked = shlex.join([*question.split(), *more])
    questions = together if asked in together else (asked,)
    return said(devices, *questions)[questions.index(asked)]


def here(question: str) -> Any:
    """Return the answer of this process, which has one device."""
    what, *arguments = shlex.split(question)
    return json.loads(json.dumps(QUESTIONS[what](*arguments)))


def test_one_device_is_a_plain_map() -> None:
    assert mesh.size() == 1
    arrays = np.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(mesh.map_chunks(lambda x, y: x * y, arrays, 1, np.float32(2)), arrays * 2)


@pytest.mark.parametrize(
    "platform, devices, batch, shares",
    [
        ("cpu", 2, (64, 32, 32, 3), (2, 32)),
        ("cpu", 6, (64, 32, 32, 3), (6, 12)),  # an odd number, eleven, would have no micro-batches
        ("cpu", 12, (64, 32, 32, 3), (12, 6)),
        ("cpu", 64, (64, 32, 32, 3), (32, 2)),  # a core gets at least 2048 pixels
        ("cpu", 2, (10, 32, 32, 3), (2, 5)),
        ("cpu", 8, (64, 8, 8, 1), (2, 32)),
        ("cpu", 8, (10, 8, 8, 1), (1, 10)),
        ("gpu", 6, (64, 8, 8, 1), (6, 12)),
        ("gpu", 8, (3, 8, 8, 1), (3, 1)),
    ],
)
def test_any_number_of_devices_shares_a_batch(
    platform: Any, devices: int, batch: tuple[int, ...], shares: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mesh, "size", lambda: devices)
    with compiled_for(platform):
        assert mesh._shares((jnp.zeros(batch),), mesh.MIN_PIXELS_TO_SUM) == shares


def test_images_that_fill_up_a_batch_have_no_weight() -> None:
    images, weights = mesh._filled_up((jnp.arange(5.0)[:, None], jnp.full(5, 0.25)), 8)
    np.testing.assert_array_equal(images[:, 0], [0, 1, 2, 3, 4, 0, 1, 2])
    np.testing.assert_array_equal(weights, [0.25] * 5 + [0] * 3)


def test_every_program_finds_out_whether_a_function_shares_work() -> None:
    """``jit`` keeps the trace of a function, and only tracing tells."""

    def inner(x: jax.Array) -> jax.Array:
        mesh._note_sharing()
        return x

    def outer(x: jax.Array) -> jax.Array:
        assert mesh._shares_work(mesh._traced_once(inner), x)
        return x

    x = jnp.zeros(3)
    assert [mesh._shares_work(mesh._traced_once(f), x) for f in (inner, inner, outer)] == [True, True, True]
    assert not mesh._shares_work(mesh._traced_once(jnp.sin), x)


@pytest.mark.parametrize(
    "method", ["acc_dd", *(pytest.param(method, marks=pytest.mark.slow) for method in ("dsa", "dream", "mtt"))]
)
def test_one_sweep_is_the_same_on_one_device_and_on_eight(method: str) -> None:
    """With three classes on eight devices, five have no class, and with batches of twelve, two have no image."""
    one, eight = here(f"sweep {method}"), on(8, f"sweep {method}")
    assert one["devices"] == 1 and eight["devices"] == 8
    for name in ("images", "loss", "params"):
        reach = 1e-5 * np.abs(one[name]).max()  # float32, sums in another order
        np.testing.assert_allclose(eight[name], one[name], rtol=0, atol=reach, err_msg=name)


def test_pools_scores_and_sweeps_are_the_same(tmp_path: Path) -> None:
    one, eight = here("rest"), on(8, "rest")
    for name in one:
        np.testing.assert_allclose(eight[name], one[name], rtol=2e-4, atol=1e-5, err_msg=name)


def test_a_lone_entry_is_shared_inside_or_computed_once() -> None:
    """Copies of the same work would compete for the cores of a CPU."""
    assert on(8, "lone") == [[True, False], [False, True]] * 2


def communicated(classes: int, side: int) -> list[list[str]]:
    """Return the only allowed communication: the gradient of the update, as one vector, and the matching loss."""
    params = jax.eval_shape(ConvNet(2, 8).build((side, side, 3), classes).init, jax.random.key(0)).params
    return [["all-reduce", f"f32[{sum(leaf.size for leaf in jax.tree.leaves(params))}]"], ["all-reduce", "f32[]"]]


def test_devices_exchange_only_the_loss_and_the_gradient_of_the_update() -> None:
    """The compiled program of a block lists its collective operations."""
    assert on(8, "collectives acc_dd 8 16 1") == communicated(8, 16)


@pytest.mark.slow
@pytest.mark.parametrize("more", ["8 16 4", "8 16 1 32", "8 32 1", "16 16 1"])
def test_communication_does_not_grow(more: str) -> None:
    """More images per class or more real images do not change it. Larger images and more classes change only the size
    of the classifier.
    """
    classes, side, *_ = map(int, more.split())
    assert on(8, f"collectives acc_dd {more}") == communicated(classes, side)


@pytest.mark.slow
def test_the_synthetic_set_is_gathered_once_a_step_if_networks_train_on_it() -> None:
    gathered = [shape for kind, shape in on(8, "collectives dsa 8 16 1") if kind != "all-reduce"]
    assert len(gathered) == 1


@pytest.mark.slow
def test_docs_scaling_counts_the_share_of_one_device() -> None:
    one, eight = here("shares"), on(8, "shares")
    assert eight["sweep"] * 5 == one["sweep"], "two of ten classes"
    assert eight["update"] * 8 == one["update"]
    (reduced, gathered, held), (alone, nothing, whole) = eight["sizes"], one["sizes"]
    assert alone == nothing == 0 and min(reduced, gathered) > 0 and held == whole, "eight does not divide ten"


@pytest.mark.slow
def test_classes_that_the_devices_do_not_divide_cost_a_gather_of_the_set() -> None:
    gathered = [shape for kind, shape in on(8, "collectives acc_dd 10 16 4") if kind == "all-gather"]
    assert gathered == [*GATHERED * ["f32[16,4,16,16,3]"], "f32[16]"], "the gradient of the set, and the losses"


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_loops_compile_once(devices: int) -> None:
    assert on(devices, "traces") == [1, 2, 1]


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_a_resumed_run_compiles_no_block(devices: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    compiled = []
    for steps, more in (("1", []), ("2", ["--resume"])):
        on(devices, "distill", str(tmp_path / "run"), "--outer-steps", steps, *more)
        compiled.append(sorted(path.name for path in (tmp_path / "cache").glob("jit_block*-cache")))
    assert compiled[0] and compiled[0] == compiled[1]


def test_arithmetic_is_that_of_all_devices_together() -> None:
    assert on(8, "explain") == here("explain")


def test_cores_and_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert physical_cores() >= 1
    for argv, told in ((["--devices", "3"], 3), (["x", "--devices=5"], 5), ([], physical_cores())):
        monkeypatch.setenv("XLA_FLAGS", "--other")
        share_processors(argv)
        assert os.environ["XLA_FLAGS"] == f"--other --xla_force_host_platform_device_count={told}"
    share_processors(["--devices", "7"])
    assert "=7" not in os.environ["XLA_FLAGS"], "the settings of the user in XLA_FLAGS have precedence"
