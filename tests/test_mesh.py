"""Devices share classes, networks, repeats and sweep points: in a process that makes eight of one CPU."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill_jax import mesh
from distill_jax.cli.process import physical_cores, share_processors

ROOT = Path(__file__).parent.parent


@cache
def said(devices: int, what: str, *arguments: str) -> str:
    """What ``tests.on_devices`` prints of ``what``, in a process of so many devices."""
    flags = re.sub(r"(device_count)=\d+", rf"\1={devices}", os.environ["XLA_FLAGS"])
    command = [sys.executable, "-m", "tests.on_devices", what, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "XLA_FLAGS": flags}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def on(devices: int, what: str, *arguments: str) -> Any:
    """The last line of it, which is JSON."""
    return json.loads(said(devices, what, *arguments).splitlines()[-1])


def test_one_device_is_a_plain_map() -> None:
    assert mesh.size() == 1
    arrays = np.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(mesh.map_chunks(lambda x, y: x * y, arrays, 1, np.float32(2)), arrays * 2)


@pytest.mark.parametrize(
    "method", ["acc_dd", *(pytest.param(method, marks=pytest.mark.slow) for method in ("dsa", "dream", "mtt"))]
)
def test_one_sweep_is_the_same_on_one_device_and_on_eight(method: str) -> None:
    """Three classes on eight devices: five of them work on dummies."""
    one, eight = on(1, "sweep", method), on(8, "sweep", method)
    assert one["devices"] == 1 and eight["devices"] == 8
    for name in ("images", "loss", "params"):
        reach = 1e-5 * np.abs(one[name]).max()  # float32, sums in another order
        np.testing.assert_allclose(eight[name], one[name], rtol=0, atol=reach, err_msg=name)


def test_pools_scores_and_sweeps_are_the_same(tmp_path: Path) -> None:
    one, eight = on(1, "rest"), on(8, "rest")
    for name in one:
        np.testing.assert_allclose(eight[name], one[name], rtol=2e-4, atol=1e-5, err_msg=name)


def test_only_the_loss_and_the_gradient_of_the_update_travel() -> None:
    """Read off the compiled program of a block, for more images, larger ones, and more classes."""
    few = on(8, "collectives", "acc_dd", "8", "16", "1")
    assert {kind for kind, _ in few} == {"all-reduce"}


@pytest.mark.slow
def test_what_travels_does_not_grow() -> None:
    few = on(8, "collectives", "acc_dd", "8", "16", "1")
    more, larger = on(8, "collectives", "acc_dd", "8", "16", "4"), on(8, "collectives", "acc_dd", "8", "16", "1", "32")
    assert more == few, "images per class"
    assert larger == few, "real images per class"
    # The classifier has a column per class: nothing else grows.
    shapes = [shape for _, shape in on(8, "collectives", "acc_dd", "16", "16", "1")]
    assert [s.replace("16]", "8]").replace("[16,128]", "[8,128]") for s in shapes] == [shape for _, shape in few]


@pytest.mark.slow
def test_the_synthetic_set_is_collected_once_a_step_where_networks_learn_from_it() -> None:
    gathered = [shape for kind, shape in on(8, "collectives", "dsa", "8", "16", "1") if kind != "all-reduce"]
    assert len(gathered) == 1


def test_a_run_goes_on_with_another_number_of_devices(tmp_path: Path) -> None:
    for devices, more in ((2, []), (1, ["--resume"]), (4, ["--resume"])):
        on(devices, "distill", str(tmp_path), *more, "--outer-steps", str(1 + len(more) * devices))
    assert json.loads((tmp_path / "result.json").read_text())["steps"]["outer"] == 5


@pytest.mark.slow
def test_what_goes_round_on_two_devices_is_compiled_once() -> None:
    assert on(2, "traces") == [1, 1, 1, 1]


def test_arithmetic_is_that_of_all_devices_together() -> None:
    assert said(2, "explain") == said(1, "explain")


def test_cores_and_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert physical_cores() >= 1
    for argv, told in ((["--devices", "3"], 3), (["x", "--devices=5"], 5), ([], physical_cores())):
        monkeypatch.setenv("XLA_FLAGS", "--other")
        share_processors(argv)
        assert os.environ["XLA_FLAGS"] == f"--other --xla_force_host_platform_device_count={told}"
    share_processors(["--devices", "7"])
    assert "=7" not in os.environ["XLA_FLAGS"], "what the user set in XLA_FLAGS stays"
