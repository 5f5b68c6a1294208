"""Options for runs of a second or two. All tests of the runners share them, so that each program compiles once."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import pytest

from distill_jax.distilled import DistilledSet

ROOT = Path(__file__).parent.parent
NET = ["--net.width", "4", "--net.depth", "1"]
POOL = ["--models.size", "2", "--models.epochs", "1", "--models.augment.strategy="]
SHORT = [
    "--outer-steps", "4", "--inner-steps", "3", "--update.images", "64", "--repeats", "2", "--protocol.epochs", "2",
]  # fmt: skip
PLAIN = ["--augment", "none", "--update.augment.strategy", "", "--protocol.augment.strategy", ""]
RHYTHM = ["--save-every", "1", "--eval-every", "2"]
TINY = ["acc_dd", "digits", *NET, *POOL, *SHORT, *PLAIN, *RHYTHM, "--baselines", "random"]
QUICK = ["--eval-every", "0", "--baselines"]
"""options added to TINY to score only the final images"""


def outcome(workdir: Path) -> dict[str, Any]:
    """Return all of a finished run that must be bit-identical in a run that was interrupted and resumed."""
    distilled = DistilledSet.load(workdir / "distilled.npz")
    result = json.loads((workdir / "result.json").read_text())
    metrics = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {
        "images": distilled.images.tobytes(),
        "card": distilled.card,
        "metrics": [{name: value for name, value in line.items() if name != "seconds"} for line in metrics],
        "accuracy": result["accuracy"],
        "baselines": result["baselines"],
        "grid": (workdir / "grid.png").read_bytes(),
    }


def count_calls(patched: pytest.MonkeyPatch, calls: Counter[str], phase: str, module: object, name: str) -> None:
    """Count the calls of ``module.name`` in ``calls[phase]``. For a function under ``jit`` the calls are its traces."""
    function = getattr(module, name)

    def count(*args, **kwargs):
        calls[phase] += 1
        return function(*args, **kwargs)

    patched.setattr(module, name, count)


def python(*argv: str, **variables: str) -> subprocess.Popen[str]:
    """Start ``python argv`` in the repository, with the compilation cache of this test session."""
    cache = {
        name.upper(): str(jax.config.values[name])
        for name in ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
        if jax.config.values["jax_compilation_cache_dir"]
    }
    command, out = [sys.executable, *argv], subprocess.PIPE
    return subprocess.Popen(
        command, cwd=ROOT, env={**cache, **os.environ, **variables}, stdout=out, stderr=out, text=True
    )
