"""Data sheets of accelerators, and the share of the peak figures that programs reach."""

from __future__ import annotations

from typing import NamedTuple

from distill_jax.platform import Platform
from distill_jax.types import RequestError

OF_BANDWIDTH = 0.8
"""share of the memory bandwidth that an efficient kernel reaches"""
OF_PEAK = 200 / 495
"""share of the peak rate of dense matrix products that convolutions of our sizes reach: 200 of 495 TF/s on an H100"""


class Device(NamedTuple):
    """One accelerator."""

    title: str
    platform: Platform
    memory: int
    """bytes"""
    bandwidth: float
    """bytes per second, from the data sheet"""
    wide: float
    """peak FLOP/s for float32 operands at jax's default precision: TF32 on GPUs that have it, one bfloat16 pass on a
    TPU"""
    narrow: float
    """peak FLOP/s for bfloat16 operands"""
    launch: float
    """seconds of the smallest kernel"""
    wire: float
    """bytes per second that it sends to the other devices of a machine, from the data sheet"""
    compiler: str
    """description for the compiler: a GPU's figures as a text proto, or empty for a TPU"""

    def topology(self, count: int) -> str:
        """Return the compiler's name of ``count`` of these devices. Raise RequestError if they form no machine."""
        if self.platform == "tpu":
            if count not in SLICES:
                raise RequestError(
                    f"devices is {count}: slices of {self.title} have {', '.join(map(str, SLICES))} chips"
                )
            return SLICES[count]
        if count > PER_MACHINE and count % PER_MACHINE:
            raise RequestError(f"devices is {count}: give at most {PER_MACHINE}, or a multiple of {PER_MACHINE}")
        machines = -(-count // PER_MACHINE)
        return f"1x{machines}x{count // machines}"

    def link(self, count: int) -> float:
        """Return the bytes per second that each of ``count`` devices sends to the others."""
        return min(self.wire, BETWEEN) if self.platform == "gpu" and count > PER_MACHINE else self.wire

    def seconds(self, nbytes: float, flops: float, narrow: bool) -> tuple[float, float, float]:
        """Return the minimum seconds of a kernel for its launch, its memory traffic and its arithmetic."""
        rate = self.narrow if narrow else self.wide
        return self.launch, nbytes / (OF_BANDWIDTH * self.bandwidth), flops / (OF_PEAK * rate)


PER_MACHINE = 8
"""maximum number of GPUs in a machine"""
BETWEEN = 50e9
"""bytes per second that each GPU sends to other machines; an assumption (400 Gbit/s)"""
SLICES = {1: "v5e:2x2", 4: "v5e:2x2", 8: "v5e:2x4", 16: "v5e:4x4", 32: "v5e:4x8", 64: "v5e:8x8", 256: "v5e:16x16"}
"""slices of TPU v5e by number of chips; of the smallest, one chip can be used alone"""
LAUNCH = 3e-6
"""seconds to launch a kernel on a GPU from the host's queue"""
STEP = 1e-6
"""seconds to start a fused operation in a TPU's program; an assumption, not measured"""


def _gpu(
    title: str,
    memory: int,
    bandwidth: int,
    wide: float,
    narrow: float,
    wire: float,
    capability: tuple[int, int],
    **cores: float,
) -> Device:
    """Return a GPU with the figures that XLA needs. ``cores`` overrides the figures of an H100's multiprocessors."""
    figures = {
        "threads_per_block_limit": 1024, "threads_per_warp": 32, "shared_memory_per_block": 49152,
        "shared_memory_per_core": 233472, "threads_per_core_limit": 2048, "core_count": 132, "fpus_per_core": 128,
        "block_dim_limit_x": 2**31 - 1, "block_dim_limit_y": 65535, "block_dim_limit_z": 65535,
        "memory_bandwidth": bandwidth, "l2_cache_size": 52428800, "clock_rate_ghz": 1.98, "device_memory_size": memory,
        "shared_memory_per_block_optin": 232448, "registers_per_core_limit": 65536, "registers_per_block_limit": 65536,
    } | cores  # fmt: skip
    major, minor = capability
    words = [f"{name}: {value}" for name, value in figures.items()]
    words.append(f"cuda_compute_capability {{ major: {major} minor: {minor} }}")
    proto = (
        f'gpu_device_info {{ {" ".join(words)} }} platform_name: "CUDA" '
        f'dnn_version_info {{ major: 9 minor: 10 patch: 0 }} device_description_str: "{title}"'
    )
    return Device(title, "gpu", memory, bandwidth, wide, narrow, LAUNCH, wire, proto)


AMPERE = {
    "shared_memory_per_core": 167936, "core_count": 108, "fpus_per_core": 64, "l2_cache_size": 41943040,
    "clock_rate_ghz": 1.41, "shared_memory_per_block_optin": 166912,
}  # fmt: skip
TURING = {
    "shared_memory_per_core": 65536, "threads_per_core_limit": 1024, "core_count": 40, "fpus_per_core": 64,
    "l2_cache_size": 4194304, "clock_rate_ghz": 1.59, "shared_memory_per_block_optin": 65536,
}  # fmt: skip

DEVICES = {
    "h100": _gpu("NVIDIA H100 80GB HBM3", 84942979072, 3352320000000, 495e12, 989e12, 450e9, (9, 0)),
    "h200": _gpu("NVIDIA H200 141GB HBM3e", 151397597184, 4800000000000, 495e12, 989e12, 450e9, (9, 0)),
    "a100": _gpu("NVIDIA A100-SXM4-80GB", 85100068864, 2039040000000, 156e12, 312e12, 300e9, (8, 0), **AMPERE),
    # The tensor cores of a T4 have neither TF32 nor bfloat16, so both run on the CUDA cores.
    "t4": _gpu("Tesla T4", 15843721216, 320064000000, 8.1e12, 8.1e12, 16e9, (7, 5), **TURING),
    "v5e": Device("TPU v5e", "tpu", 17179869184, 819e9, 197e12, 197e12, STEP, 200e9, ""),
}
"""the devices of ``explain --device``"""
