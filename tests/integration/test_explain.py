"""Tests the costs of programs that can be counted by hand, and ``explain`` for every preset."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.axes.init import RandomReal
from distill_jax.axes.optimiser import Adam
from distill_jax.axes.selector import RandomBatch, Representative
from distill_jax.cli import explain
from distill_jax.cli.cost.jaxpr import Cost, cost
from distill_jax.cli.cost.memory import shapes
from distill_jax.cli.cost.shapes import real_shapes
from distill_jax.contracts import Optimiser
from distill_jax.methods import METHODS
from distill_jax.nets import ConvNet
from distill_jax.nets.conv import conv2d
from distill_jax.published import compared
from distill_jax.recipes import resolve
from distill_jax.types import choice


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


def test_bytes_of_operands_and_results_are_of_their_own_types():
    halves = (jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((3, 4), (4, 5)))
    product = partial(jnp.matmul, preferred_element_type=jnp.float32)
    assert cost(product, *halves).bytes == 2 * (12 + 20) + 4 * 15


def test_a_loop_of_unknown_length_counts_once_with_a_note():
    def until(x, n):
        return jax.lax.fori_loop(0, n, lambda i, x: x @ x, x)

    assert cost(until, ones(3, 3), jax.ShapeDtypeStruct((), jnp.int32))[::2] == (2 * 27, 1)
    assert cost(lambda x: until(x, 4), ones(3, 3))[::2] == (4 * 2 * 27, 0)


def test_the_most_expensive_branch_counts():
    def either(yes, x):
        return jax.lax.cond(yes, lambda x: x @ x, lambda x: x @ x @ x, x)

    assert cost(either, jax.ShapeDtypeStruct((), jnp.bool_), ones(3, 3)).flops == 2 * 2 * 27


def test_operations_in_checkpointing_and_custom_derivatives_count():
    x, kernel = ones(1, 4, 4, 16), ones(3, 3, 16, 16)
    forward = cost(conv2d, x, kernel).flops
    assert forward == 2 * 16 * 16 * 9 * 16

    def loss(x, kernel):
        return jnp.sum(conv2d(x, kernel) ** 2)

    assert cost(jax.grad(loss, (0, 1)), x, kernel).flops == 3 * forward
    assert cost(jax.grad(loss), x, kernel).flops == 2 * forward  # the gradient of the kernel is not used
    assert (
        cost(jax.value_and_grad(jax.checkpoint(loss)), x, kernel).flops == 3 * forward
    )  # forward, recomputed, and backward


def explained(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert explain.main(argv) == 0
    return capsys.readouterr().out


def test_cifar10_as_measured(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    # CPUs use Winograd convolutions, which need fewer operations than the plain ones of the independent count.
    monkeypatch.setattr("distill_jax.nets.conv.on_cpu", lambda: False)
    text = explained(capsys, "acc_dd", "cifar10", "--ipc", "10")
    assert "uint8 [50000, 32, 32, 3] -> select [10, 64, 32, 32, 3] --augment--" in text
    assert "images [10, 10, 32, 32, 3] -> decode [10, 40, 32, 32, 3] --augment--" in text
    assert "5 x 320,010 parameters" in text
    # The sweep is about 480 GFLOP by an independent count, and a whole step 1.1 TFLOP.
    assert re.search(r"matching sweep +4[678]\d GFLOP", text)
    assert re.search(r"inner step +1\.1 TFLOP", text)


@pytest.mark.parametrize("method", METHODS)
def test_every_preset(method: str, capsys: pytest.CaptureFixture[str]):
    text = explained(capsys, method, "digits", "--net.depth", "1", "--net.width", "4")
    assert re.search(r"matching sweep +[\d.]+ [kMG]FLOP", text)


def test_an_unknown_data_set_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    x, y = np.zeros((6, 12, 12, 3), np.uint8), np.arange(6) % 3
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    argv = ["dm", f"npz:{tmp_path / 'data.npz'}", "--net.width", "4"]
    assert "select [3, 256, 12, 12, 3]" in explained(capsys, *argv)
    assert explain.main([*argv, "--ipc", "3"]) == 2
    assert "ipc is 3" in capsys.readouterr().err


def test_a_part_of_the_images_on_the_device(capsys: pytest.CaptureFixture[str]):
    text = explained(capsys, "dm", "digits", "--net.width", "4", "--resident-images", "50")
    assert "uint8 [500, 8, 8, 1]" in text and "500 images" in text


def selection(inner: int, every: int) -> tuple[float, str]:
    """Return the FLOPs of the selection in a step, and what is said about it."""
    dm = resolve("dm", "digits", ipc=1, shape=(8, 8, 1)).spec
    dm = replace(dm, net=ConvNet(1, 4), selector=Representative(4, every=every), inner_steps=inner)
    lines = explain._costs(*shapes(dm, real_shapes(900, (8, 8, 1), [90] * 10)))
    amount, unit, said = re.findall(r"selection +([\d.]+) ([kM])FLOP.*iB  (.*)", "\n".join(lines))[0]
    return float(amount) * {"k": 1e3, "M": 1e6}[unit], said


@pytest.mark.parametrize(("inner", "share", "said"), [(1, 1, ""), (15, 2 / 15, ", every 10 steps")])
def test_every_outer_iteration_begins_with_a_selection(inner: int, share: float, said: str):
    alone, (shared, words) = selection(inner, 1)[0], selection(inner, 10)
    assert shared == pytest.approx(share * alone, rel=0.01), "numbers are printed with few digits"
    assert words == f"Representative{said}"


def test_the_parts_of_a_run_add_up(monkeypatch: pytest.MonkeyPatch):
    """A step selects once, sweeps once and updates each of 3 models; a run has 5 x 4 steps, and a pool 7 networks."""
    parts = {"pretrain": 10, "_select": 3, "matching_sweep": 20, "model_update": 100}
    monkeypatch.setattr(
        explain, "cost", lambda f, *_: Cost(parts[f.__name__] * 1000, 1024 * len(f.__name__), f.__name__ == "pretrain")
    )
    spec = resolve("acc_dd", "digits", ipc=1, shape=(8, 8, 1)).spec
    spec = replace(spec, net=ConvNet(1, 4), live=3, outer_steps=5, inner_steps=4, selector=RandomBatch(4))
    spec = replace(spec, models=replace(spec.models, size=7))  # type: ignore[type-var]
    lines = explain._costs(*shapes(spec, real_shapes(900, (8, 8, 1), [90] * 10)))
    rows = [re.split("  +", line) for line in lines[1:7]]
    assert [row[:3] for row in rows] == [
        ["selection", "3.0 kFLOP", "7.0 KiB"],
        ["matching sweep", "20.0 kFLOP", "14.0 KiB"],
        ["model update", "300 kFLOP", "36.0 KiB"],
        ["inner step", "323 kFLOP", "57.0 KiB"],
        ["the run", "6.5 MFLOP", "1.1 MiB"],
        ["pool, before it", "70.0 kFLOP", "56.0 KiB"],
    ]
    assert rows[4][3] == "5 outer x 4 inner steps" and lines[-1].startswith("A loop whose length depends")
    parts["_select"] = 0
    assert not any(
        line.startswith("selection") for line in explain._costs(*shapes(spec, real_shapes(900, (8, 8, 1), [90] * 10)))
    )


def test_a_network_without_a_first_convolution(capsys: pytest.CaptureFixture[str]):
    assert explain.main(["dm", "cifar10", "--net", "mlp"]) == 0
    assert "net_linear_inputs" in capsys.readouterr().out


def test_a_method_without_steps_has_no_step(capsys: pytest.CaptureFixture[str]):
    text = explained(capsys, "random", "digits")
    assert "takes no steps" in text and "RandomReal" in text and "FLOP" not in text and "FeatureMatching" not in text


@choice
class MyInit(RandomReal):
    """Differs from its base in what it computes."""


@choice
class MyOptimiser(Optimiser):
    """Has no field of the library's optimisers."""

    def init(self, images):
        return ()

    def after(self, gradients, images, state, scale):
        return images - gradients, state


def test_choices_from_outside_are_not_compared_with_the_papers():
    experiment = resolve("acc_dd", "cifar10", ipc=10)
    rows = {row.name: row for row in compared("acc_dd", "cifar10", experiment, (32, 32, 3), 10)}
    own = replace(experiment, spec=replace(experiment.spec, init=MyInit(), optimiser=MyOptimiser()))
    others = {row.name: row for row in compared("acc_dd", "cifar10", own, (32, 32, 3), 10)}
    assert {"init", "image_lr", "image_optimizer"} <= rows.keys() - others.keys()
    assert all(others[name] == rows[name] for name in others) and "net" in others
    adam = replace(experiment, spec=replace(experiment.spec, optimiser=Adam()))
    (kind,) = [r for r in compared("acc_dd", "cifar10", adam, (32, 32, 3), 10) if r.name == "image_optimizer"]
    assert not kind.equal


@pytest.mark.parametrize(("option", "said"), [("--seed", "seed is -1"), ("--devices", "devices is -1")])
def test_numbers_that_no_run_can_have_are_refused(option: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain.main(["acc_dd", "digits", option, "-1"]) == 2
    assert said in capsys.readouterr().err
