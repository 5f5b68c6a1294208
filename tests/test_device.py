"""A step compiled for an H100 that is not here stays within its budgets (facts of November 2026, jax 0.10.2).

Needs the compiler: ``pip install jax-cuda12-plugin jax-cuda12-pjrt nvidia-cuda-nvcc-cu12``.
"""

import re

import pytest

from distill_jax.cli import compiler, explain
from distill_jax.cli.devices import DEVICES

H100 = DEVICES["h100"]

MEBI = {"MiB": 1.0, "GiB": 1024.0}


@pytest.mark.slow
@pytest.mark.skipif(bool(compiler.missing_wheels(H100)), reason="no compiler for CUDA")
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
def test_acc_dd_on_cifar10_within_its_budgets(capsys: pytest.CaptureFixture[str]) -> None:
    assert explain.main(["acc_dd", "cifar10", "--ipc", "10", "--device", "h100"]) == 0
    text = capsys.readouterr().out
    memory = re.search(r"memory: .* and state, ([\d.]+) (MiB|GiB) in between.*: it fits", text)
    assert memory and float(memory.group(1)) * MEBI[memory.group(2)] <= 1.1 * 845
    assert "--class-chunk 4" in text

    step = re.search(r"inner step +([\d,]+) +([\d.]+) GiB +([\d.]+) TFLOP +([\d.]+) ms", text)
    assert step is not None
    kernels, traffic, arithmetic, time = (float(number.replace(",", "")) for number in step.groups())
    # By an independent count, all classes at once: 2 754 kernels, 43.9 GB, 1.08 TFLOP, 24.4 ms.
    assert kernels == pytest.approx(2754, rel=0.2)
    assert traffic == pytest.approx(43.9e9 / 2**30, rel=0.2)
    assert arithmetic == pytest.approx(1.08, rel=0.2)
    assert time == pytest.approx(24.4, rel=0.2)
