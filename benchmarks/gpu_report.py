"""The page ``results/gpu.md`` from what ``gpu_page`` has measured so far."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

PUBLISHED = {1: 49.2, 10: 67.1, 50: 73.8}
"""Acc-DD's Ours5 on CIFAR-10, percent by ipc"""
IMAGES = 2000 / 640
"""model updates of the benchmark in one of a run"""

INTRODUCTION = """# On a GPU

Written by `python -m benchmarks.gpu_page`, which measures in slices and goes on where it was stopped.
"""

State = Mapping[str, Mapping[str, Any]]


REHEARSAL = "A rehearsal at tiny sizes: no figure here means anything.\n"


def report(state: State, rehearsal: bool = False) -> str:
    """Markdown; ``state``: what is known of each slice, by its name."""
    parts = [
        INTRODUCTION,
        REHEARSAL if rehearsal else "",
        _device(state),
        _steps(state),
        _runs(state),
        _commands(state),
        _failures(state),
    ]
    return "\n".join(part for part in parts if part)


def _device(state: State) -> str:
    known = state.get("device", {}).get("figures")
    if not known:
        return ""
    torch = f", PyTorch {known['torch']}" if known["torch"] else ""
    return (
        f"{known['date']}, {known['device_count']} x {known['device']}; "
        f"jax {known['jax']}, jaxlib {known['jaxlib']}{torch}, Python {known['python']}, commit {known['commit']}\n"
    )


def _steps(state: State) -> str:
    """The step of acc_dd, in milliseconds."""
    rows = []
    for name in ("float32", "float32 grouped", "bfloat16", "bfloat16 grouped"):
        figures = state.get(name, {}).get("figures")
        if not figures:
            continue
        sweep, update = figures["matching_sweep_s"], figures["model_update_640_s"]
        cells = [_ms(sweep), _ms(update), _ms(sweep + IMAGES * update), f"{figures['compile_s']:.1f}"]
        peer = figures["peer"]
        if peer:
            theirs = peer["matching_sweep_s"], peer["model_update_640_s"]
            ratios = (" ".join(f"{r:.2f}" for r in figures["ratios"][part]) for part in ("sweep", "update"))
            cells += [_ms(theirs[0]), _ms(theirs[1]), *ratios]
        else:
            cells += ["-"] * 4
        rows.append([name, *cells])
    if not rows:
        return ""
    head = [
        "step, ms", "sweep", "update, 640 images", "whole step, 2000 images", "compilation, s",
        "PyTorch: sweep", "PyTorch: update", "PyTorch / ours: sweep, pair by pair", "update, pair by pair",
    ]  # fmt: skip
    return "## The step\n\n" + _table([head, *rows])


def _runs(state: State) -> str:
    """Acc-DD's Ours5, from start to end."""
    rows = []
    for ipc, published in PUBLISHED.items():
        known = state.get(f"ipc {ipc}")
        if not known:
            continue
        estimate = _estimate(state.get(f"explain {ipc}", {}).get("figures", {}).get("said", ""))
        figures = known.get("figures", {})
        if known["status"] != "done":
            so_far = f"{known['status']}, {figures.get('steps', 0)} outer steps"
            rows.append([str(ipc), so_far, f"{published}", "-", f"{known['seconds']:.0f}", "-", "-", *estimate])
            continue
        accuracy, seconds = figures["accuracy"], figures["seconds"]
        spread = "" if accuracy["std"] is None else f" ± {accuracy['std']:.2f}"
        inner = 1e3 * seconds["distill"] / max(1, figures["steps"]["inner"] * figures["steps"]["outer"])
        rows.append(
            [
                str(ipc),
                f"{accuracy['mean']:.2f}{spread}",
                f"{published}",
                f"{seconds['pretrain']:.0f}",
                f"{seconds['distill']:.0f}",
                f"{inner:.1f}",
                f"{figures['peak_bytes'] / 2**30:.2f}",
                *estimate,
            ]  # fmt: skip
        )
    if not rows:
        return ""
    head = [
        "ipc", "accuracy, %", "published", "pretraining, s", "distillation, s", "ms per inner step", "peak memory, GiB",
        "`explain`: memory", "`explain`: inner step",
    ]  # fmt: skip
    return "## Acc-DD's Ours5 on CIFAR-10\n\n" + _table([head, *rows])


def _estimate(said: str) -> list[str]:
    """Memory and time of a step as ``explain --device`` says them."""
    memory = re.search(r"memory: (.*) of data and state, (.*) in between", said)
    step = re.search(r"inner step .*?([\d.]+ ms)", said)
    return [f"{memory.group(1)} + {memory.group(2)}" if memory else "-", step.group(1) if step else "-"]


def _commands(state: State) -> str:
    rows = [[name, each["status"], f"{each['seconds']:.0f}", f"`{each['command']}`"] for name, each in state.items()]
    return "## Commands\n\n" + _table([["slice", "status", "seconds", "command"], *rows]) if rows else ""


def _failures(state: State) -> str:
    parts = [
        f"{name} failed; its last lines:\n\n```\n" + "\n".join(each.get("last", [])) + "\n```\n"
        for name, each in state.items()
        if each["status"] == "failed"
    ]
    return "\n".join(["## What failed", "", *parts]) if parts else ""


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}"


def _table(rows: Iterable[Iterable[str]]) -> str:
    head, *body = [list(row) for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
