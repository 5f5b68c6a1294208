"""What XLA is told before it starts: how many devices a CPU counts as, what to compile how, and where to keep it."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import jax

from distill_jax.cli import launch
from distill_jax.types import RequestError

MOST_DEVICES = 1024


def compile_faster() -> None:
    """Spare a third of the compilation on CPU, at the same speed, where XLA still knows how.

    The flag is in the jaxlib that Python 3.11 resolves to; XLA ends the process on a flag it does not know.
    """
    if metadata.version("jaxlib").startswith("0.10."):
        flag = "--xla_cpu_use_fusion_emitters=false"
        if flag not in os.environ.get("XLA_FLAGS", ""):
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()


def trace_faster() -> None:
    """Let Python look for garbage less often: tracing makes many objects that stay, and would spend a fifth of its time
    on looking through them."""
    gc.set_threshold(50_000, 20, 20)


def share_processors(argv: Sequence[str]) -> None:
    """Let the CPU count as several devices, which share the work (``mesh.py``): as many as ``--devices`` says, else one
    for each physical core. Without effect once jax has started, and on accelerators, which share it anyway."""
    told = launch.option(argv, "--devices") or ""
    count = int(told) if told.isdecimal() else 0
    if count > MOST_DEVICES:
        raise RequestError(f"devices is {count}: give at most {MOST_DEVICES}, or 0 for one for each core")
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_force_host_platform_device_count" not in flags:
        flag = f"--xla_force_host_platform_device_count={count or physical_cores()}"
        os.environ["XLA_FLAGS"] = f"{flags} {flag}".strip()


def physical_cores() -> int:
    """Cores that this process may use; the threads of one core count once."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    siblings = (Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") for cpu in allowed)
    return max(1, len({path.read_text() if path.exists() else str(path) for path in siblings}))


def deterministic_operations() -> None:
    """Ask a GPU for the same bits in every run."""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".strip()


def keep_compiled_programs() -> None:
    """Keep compiled programs, the small ones too, in the user's cache folder, unless jax was told where to."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "distill_jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
