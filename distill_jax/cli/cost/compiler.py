"""Compiles a step for an accelerator that this machine lacks, in a child process.

A child process is necessary because XLA reads its flags only once, and because a process whose device is a CPU cannot
load the compiler of another platform. jax's wheels for CUDA and TPU contain the compilers, which need no driver, cuDNN
or device.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from distill_jax.cli.cost.devices import Device
from distill_jax.cli.process.run_command import Broken
from distill_jax.types import RequestError

CHILD = "distill_jax.cli.cost.fit"
EXTRA = {"gpu": "cuda12", "tpu": "tpu"}
"""the extra of this package that installs the compiler of each platform"""
WHEELS = {
    "gpu": {
        "jax_cuda12_plugin": "jax-cuda12-plugin",
        "jax_plugins.xla_cuda12": "jax-cuda12-pjrt",
        "nvidia.cuda_nvcc": "nvidia-cuda-nvcc-cu12",
    },
    "tpu": {"libtpu": "libtpu"},
}
"""modules of the compiler of each platform, and the packages that contain them"""


def require(device: Device) -> None:
    """Raise RequestError if the compiler for ``device`` is not installed."""
    missing = missing_wheels(device)
    if missing:
        raise RequestError(
            f"--device needs the compiler for {device.title} (missing: {', '.join(missing)}): "
            f"pip install -e '.[{EXTRA[device.platform]}]'"
        )


def ask(device: Device, argv: list[str]) -> str:
    """Return the output of ``fit`` on ``device`` for ``argv``, the command line of ``explain``.

    Raise Broken if the compiler fails.
    """
    minutes = "half a minute" if device.platform == "gpu" else "several minutes"
    print(f"compiling for {device.title}, which takes {minutes} or more", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", CHILD, *argv]
    done = subprocess.run(command, env=environment(device), capture_output=True, text=True)
    if done.returncode == 2:
        raise RequestError(done.stderr.strip().splitlines()[-1].removeprefix("error: "))
    if done.returncode != 0:
        raise Broken(f"the compilation for {device.title} failed:\n{done.stderr.strip()[-2000:]}")
    return done.stdout.rstrip("\n")


def missing_wheels(device: Device) -> list[str]:
    """Return the packages of the compiler that are not installed."""
    return [package for module, package in WHEELS[device.platform].items() if not _folders(module)]


def environment(device: Device) -> dict[str, str]:
    """Return the environment variables of the child process."""
    # The cache cannot always restore programs compiled for another device.
    variables = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    # The user's flags are meant for the device of this machine.
    variables.pop("XLA_FLAGS", None)
    if device.platform == "tpu":
        # No chip is used, so a process that holds the lock on the chips is not disturbed.
        return {**variables, "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    # Triton's matrix products need a device for autotuning.
    data = next(iter(_folders("nvidia.cuda_nvcc")), "")
    flags = f"--xla_gpu_enable_triton_gemm=false --xla_gpu_cuda_data_dir={data}"
    return {**variables, "JAX_PLATFORMS": "cpu,cuda", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1", "XLA_FLAGS": flags}


def _folders(module: str) -> list[str]:
    """Return the directories of a package; empty if it is not installed."""
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return []
    if found is None:
        return []
    return list(found.submodule_search_locations or [str(Path(found.origin or "").parent)])
