"""Time the parts of a run on random images. Reads no data and writes no files.

python -m experiments.benchmark step --shapes cifar10 --peer torch
python -m experiments.benchmark step --objective my_module:MyObjective
python -m experiments.benchmark step --json
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import jax
from tyro.conf import FlagCreatePairsOff, Positional, arg

from benchmarks.kmeans import time_kmeans
from benchmarks.step import NETWORKS, SIZES, Step, evaluation, group_filters, step
from distill_jax.cli.output.display import table
from distill_jax.cli.process.run_command import run_command
from distill_jax.cli.request.choices import choose
from distill_jax.cli.request.parser import parsed
from distill_jax.spec import CHOICES
from distill_jax.types import RequestError

IDLE = 0.1
"""share of the processors that other processes may use before a warning"""
MIN_SECONDS = 0.5
"""shortest duration of a measurement; shorter steps are repeated"""


@dataclass(frozen=True)
class Benchmark:
    """Time, on random images, the inner step of acc_dd (matching sweep and model update separately), training from
    scratch on a distilled set, or the clustering behind representative selection.
    """

    target: Annotated[
        Positional[Literal["step", "evaluate", "kmeans", "all"]], arg(metavar="step|evaluate|kmeans|all")
    ] = "step"
    """what to time"""
    shapes: Literal["cifar10", "cifar10-small", "digits", "tiny"] = "cifar10"
    """CIFAR-10 at 10 images per class with ConvNet-3 of width 128, at 1 with width 32 (small), or digits at 1 with
    ConvNet-2 of width 32"""
    objective: Annotated[str | None, arg(metavar="|".join([*CHOICES["objective"], "MODULE:CLASS"]))] = None
    """objective of the step; default: the one of acc_dd"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """dtype that the networks of the step and of the peer compute in"""
    filters: Literal["unrolled", "grouped"] = "unrolled"
    """how an accelerator computes, in a step, convolutions whose filters differ from class to class: one by one, as
    runs do, or as one grouped convolution"""
    peer: Literal["torch"] | None = None
    """also time the same step in eager PyTorch, alternating with ours"""
    pairs: int = 5
    """number of measurements of each part; medians are reported"""
    json: FlagCreatePairsOff[bool] = False
    """print only one line of JSON"""


def run(argv: list[str]) -> None:
    options = parsed(Benchmark, argv, "benchmark")
    if options.pairs < 1:
        raise RequestError(f"pairs is {options.pairs}: it must be at least 1")
    if options.objective and options.target not in ("step", "all"):
        raise RequestError(f"{options.target} has no objective: leave --objective out, or time a step")
    if options.peer and options.objective:
        raise RequestError("--peer torch has only the objective of acc_dd: leave out --objective or --peer")
    if options.peer and importlib.util.find_spec("torch") is None:
        raise RequestError("--peer torch needs PyTorch, which is not installed: install it, or leave --peer out")
    if (busy := others_share()) > IDLE:
        print(f"warning: other processes use {busy:.0%} of this machine: timings will be off", file=sys.stderr)
    targets = list(TARGETS) if options.target == "all" else [options.target]
    cache_enabled = jax.config.values["jax_enable_compilation_cache"]
    # A program from the cache would make compilation look free.
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        measured = {key: value for target in targets for key, value in TARGETS[target](options).items()}
    finally:
        jax.config.update("jax_enable_compilation_cache", cache_enabled)
    print(json.dumps(measured) if options.json else "\n".join(_report(measured)))


def time_step(options: Benchmark) -> dict[str, Any]:
    """Measure the seconds of one matching sweep and of one model update, alternating between ours and the peer. The
    whole step is a sweep and an update on the number of images that a run uses."""
    size = SIZES[options.shapes]
    objective = choose("objective", options.objective) if options.objective else None
    if options.filters == "grouped":
        group_filters()
    sides: dict[str, Step] = {"ours": step(size, objective, options.dtype)}
    if options.peer:
        from benchmarks import peer_torch

        sides["peer"] = peer_torch.step(size, options.dtype)
    parts = [(name, part) for part in ("sweep", "update") for name in sides]
    # The first call warms up, the second determines the number of repetitions.
    calls = {(name, part): getattr(sides[name], part) for name, part in parts}
    rounds = {key: max(1, round(MIN_SECONDS / min(call(1), call(1)))) for key, call in calls.items()}
    rounds = {key: min(n, 1000) for key, n in rounds.items()}
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in parts}
    for _ in range(options.pairs):
        for key in parts:
            seconds[key].append(calls[key](rounds[key]) / rounds[key])
    for name in sides:
        pairs = zip(seconds[name, "sweep"], seconds[name, "update"], strict=True)
        seconds[name, "whole"] = [sweep + update * size.run_update / size.update for sweep, update in pairs]

    def figures(name: str) -> dict[str, float] | None:
        if name not in sides:
            return None
        return {
            "matching_sweep_s": median(seconds[name, "sweep"]),
            "model_update_640_s": median(seconds[name, "update"]),
            "whole_step_s": median(seconds[name, "whole"]),
            "compile_s": sides[name].compile_s,
        }

    def ratios(part: str) -> list[float]:
        theirs = seconds.get(("peer", part), [])
        return [a / b for a, b in zip(theirs, seconds["ours", part][: len(theirs)], strict=True)]

    mine = figures("ours") or {}
    return {**mine, "peer": figures("peer"), "ratios": {part: ratios(part) for part in ("sweep", "update", "whole")}}


def time_evaluation(options: Benchmark) -> dict[str, Any]:
    """Measure the seconds per network and epoch of training from scratch on the decoded synthetic images."""
    size = SIZES[options.shapes]
    train = evaluation(size)
    first = train()
    seconds = median(train() for _ in range(options.pairs))
    return {
        "evaluation": {"network_epoch_s": seconds / (NETWORKS * size.epochs), "compile_s": max(0.0, first - seconds)}
    }


TARGETS: dict[str, Callable[[Benchmark], dict[str, Any]]] = {
    "step": time_step,
    "evaluate": time_evaluation,
    "kmeans": lambda options: time_kmeans(options.shapes, options.pairs),
}
"""target -> function that returns entries of the JSON line; no two targets share a key"""


def others_share(seconds: float = 0.5) -> float:
    """Return the share of the processors, from 0 to 1, that other processes use while this one sleeps. Without /proc,
    estimate it from the load average."""
    path = Path("/proc/stat")
    if not path.exists():
        return min(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))

    def ticks() -> tuple[int, int]:
        numbers = [int(word) for word in path.read_text().split("\n", 1)[0].split()[1:9]]
        return sum(numbers), numbers[3] + numbers[4]  # idle, and waiting for a disk

    total, idle = ticks()
    time.sleep(seconds)
    later, idle_later = ticks()
    return 1 - (idle_later - idle) / max(1, later - total)


def _report(measured: dict[str, Any]) -> list[str]:
    lines = []
    if "matching_sweep_s" in measured:
        peer, ratios = measured["peer"], measured["ratios"]
        rows = [["seconds", "ours", *(["PyTorch", "PyTorch / ours, pair by pair"] if peer else [])]]
        for label, key, part in (
            ("matching sweep", "matching_sweep_s", "sweep"),
            ("model update, 640 images", "model_update_640_s", "update"),
            ("whole step of a run", "whole_step_s", "whole"),
            ("compilation", "compile_s", ""),
        ):
            row = [label, f"{measured[key]:.4g}"]
            if peer:
                row += [f"{peer[key]:.4g}", " ".join(f"{ratio:.2f}" for ratio in ratios.get(part, []))]
            rows.append(row)
        lines += table(rows)
    if "evaluation" in measured:
        figures = measured["evaluation"]
        per_epoch, compilation = figures["network_epoch_s"], figures["compile_s"]
        lines.append(f"evaluation: {per_epoch:.4g} s per network and epoch, {compilation:.1f} s to compile")
    if "kmeans" in measured:
        figures = measured["kmeans"]
        ratios = " ".join(f"{ratio:.2f}" for ratio in figures["ratios"])
        lines.append(
            f"k-means: {figures['ours_s']:.4g} s, scikit-learn {figures['peer_s']:.4g} s; pair by pair {ratios}"
        )
    return lines


main = partial(run_command, run, less_memory="--shapes digits")


if __name__ == "__main__":
    sys.exit(main())
