"""Configure XLA and Python before a command starts: CPU devices, compiler flags, the compilation cache, gc."""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import jax

from distill_jax.cli.process import launch
from distill_jax.types import RequestError

MAX_DEVICES = 1024


def compile_faster() -> None:
    """Cut compilation time on CPU by a third, if this jaxlib has the flag for it. Programs run as fast as before.

    Only the jaxlib that Python 3.11 resolves to has the flag, and XLA ends the process on an unknown flag.
    """
    if metadata.version("jaxlib").startswith("0.10."):
        flag = "--xla_cpu_use_fusion_emitters=false"
        if flag not in os.environ.get("XLA_FLAGS", ""):
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()


def collect_garbage_rarely() -> None:
    """Make Python collect garbage less often, and not at exit. Tracing creates many long-lived objects. Scanning them
    would take a fifth of its time, and more than half a second at the end of the process."""
    gc.set_threshold(50_000, 20, 20)
    atexit.register(gc.freeze)


def share_processors(argv: Sequence[str]) -> None:
    """Split the CPU into several JAX devices that share the work (``mesh.py``): ``--devices``, by default one for each
    physical core. This has no effect once jax has started, or on accelerators, which share the work anyway."""
    value = launch.option(argv, "--devices") or ""
    count = int(value) if value.isdecimal() else 0
    if count > MAX_DEVICES:
        raise RequestError(f"devices is {count}: give at most {MAX_DEVICES}, or 0 for one for each core")
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_force_host_platform_device_count" not in flags:
        flag = f"--xla_force_host_platform_device_count={count or physical_cores()}"
        os.environ["XLA_FLAGS"] = f"{flags} {flag}".strip()


def physical_cores() -> int:
    """Return the number of physical cores that this process may use. Hardware threads of one core count once."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    siblings = (Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") for cpu in allowed)
    return max(1, len({path.read_text() if path.exists() else str(path) for path in siblings}))


def deterministic_operations() -> None:
    """Make XLA use deterministic operations on GPU, so that every run gives the same bits."""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".strip()


def keep_compiled_programs() -> None:
    """Cache all compiled programs, including small ones, in the user's cache folder, unless jax already has a cache."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "distill_jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
