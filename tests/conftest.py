"""Settings of all tests: CPU, no silent promotion of ranks or dtypes; pyproject.toml makes warnings errors."""

import gc
import os
from collections.abc import Iterator
from importlib import metadata
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compilation dominates the suite, because tests run each program once. Without optimisation it is five times faster.
# The other flags exist in the jaxlib that Python 3.11 resolves to; XLA aborts on unknown flags.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    + " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    * metadata.version("jaxlib").startswith("0.10."),
)
# Runners split a CPU into several devices, whose results differ in the last bits from this process's one device.
if "device_count" not in os.environ["XLA_FLAGS"]:
    os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=1"

import jax
import pytest

LONG_FILES = (
    "test_hosts.py", "test_mesh.py", "test_presets.py", "test_resume_long.py", "test_analyse.py", "test_unrolled.py",
    "test_sweep.py", "test_trajectory.py", "test_train.py", "test_experts.py",
)  # fmt: skip
"""files that start first, so that no process waits for another at the end"""
GROUPS = (
    ("test_bad_input.py", "test_hosts.py", "test_join.py", "test_reproduce_table.py", "test_resume.py",
     "test_runners.py", "test_sets.py", "test_teachers.py"),
    ("test_ablate.py", "test_resume_long.py"),
)  # fmt: skip
"""files that run the same programs, which one process compiles once"""


def pytest_configure(config: pytest.Config) -> None:
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    # Garbage collection among the objects of tracing took a fifth of the suite's time (cli/process/backend.py).
    gc.set_threshold(50_000, 20, 20)
    if getattr(config, "cache", None) is not None:  # absent with -p no:cacheprovider
        # Compilation dominates the suite, so cache the programs for the next run. Results are bit-identical.
        jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG_FILES)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Assign each file or group of files to one process, which computes its fixtures and compiles its programs once."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False  # files with many tests are not the slow ones

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return next((group[0] for group in GROUPS if file.endswith(group)), file)

    return ByFile(config, log)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep decoded images out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def x64() -> Iterator[None]:
    """Let the test compute in float64."""
    with jax.enable_x64(True):
        yield
