"""Format the page ``results/gpu.md`` from the measurements of ``gpu_page`` so far."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

PUBLISHED = {1: 49.2, 10: 67.1, 50: 73.8}
"""ipc -> accuracy in percent of Acc-DD's Ours5 on CIFAR-10"""
UPDATES_PER_STEP = 2000 / 640
"""number of the benchmark's model updates (640 images) that make one model update of a run (2000 images)"""

INTRODUCTION = """# On a GPU

Written by `python -m benchmarks.gpu_page`, which measures in slices and continues where it was stopped.
"""

State = Mapping[str, Mapping[str, Any]]


REHEARSAL = "This is a rehearsal at tiny sizes: its figures are meaningless.\n"


def report(state: State, rehearsal: bool = False) -> str:
    """Return the page in Markdown. ``state``: name of a slice -> its outcome (``gpu_page.attempt``)."""
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
    about = state.get("device", {}).get("figures")
    if not about:
        return ""
    torch = f", PyTorch {about['torch']}" if about["torch"] else ""
    return (
        f"{about['date']}, {about['device_count']} x {about['device']}; "
        f"jax {about['jax']}, jaxlib {about['jaxlib']}{torch}, Python {about['python']}, commit {about['commit']}\n"
    )


def _steps(state: State) -> str:
    """Format the times of the step of acc_dd, in milliseconds."""
    rows = []
    for name in ("float32", "float32 grouped", "bfloat16", "bfloat16 grouped"):
        figures = state.get(name, {}).get("figures")
        if not figures:
            continue
        sweep, update = figures["matching_sweep_s"], figures["model_update_640_s"]
        cells = [_ms(sweep), _ms(update), _ms(sweep + UPDATES_PER_STEP * update), f"{figures['compile_s']:.1f}"]
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
    """Format the results of complete runs of Acc-DD's Ours5."""
    rows = []
    for ipc, published in PUBLISHED.items():
        outcome = state.get(f"ipc {ipc}")
        if not outcome:
            continue
        estimate = _estimate(state.get(f"explain {ipc}", {}).get("figures", {}).get("said", ""))
        figures = outcome.get("figures", {})
        if outcome["status"] != "done":
            progress = f"{outcome['status']}, {figures.get('steps', 0)} outer steps"
            rows.append([str(ipc), progress, f"{published}", "-", f"{outcome['seconds']:.0f}", "-", "-", *estimate])
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


def _estimate(text: str) -> list[str]:
    """Read memory and time of a step from the output ``text`` of ``explain --device``."""
    memory = re.search(r"memory: (.*) of data and state, (.*) of temporaries", text)
    step = re.search(r"inner step .*?([\d.]+ ms)", text)
    return [f"{memory.group(1)} + {memory.group(2)}" if memory else "-", step.group(1) if step else "-"]


def _commands(state: State) -> str:
    rows = [
        [name, outcome["status"], f"{outcome['seconds']:.0f}", f"`{outcome['command']}`"]
        for name, outcome in state.items()
    ]
    return "## Commands\n\n" + _table([["slice", "status", "seconds", "command"], *rows]) if rows else ""


def _failures(state: State) -> str:
    parts = [
        f"{name} failed. Its last lines of output:\n\n```\n" + "\n".join(outcome.get("last", [])) + "\n```\n"
        for name, outcome in state.items()
        if outcome["status"] == "failed"
    ]
    return "\n".join(["## Failures", "", *parts]) if parts else ""


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}"


def _table(rows: Iterable[Iterable[str]]) -> str:
    head, *body = [list(row) for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
