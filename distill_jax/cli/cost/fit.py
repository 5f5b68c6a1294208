"""Memory and time of a run on an accelerator that this machine lacks, from a step compiled for it.

``compiler.ask`` starts this process: ``python -m distill_jax.cli.cost.fit METHOD DATASET --device NAME [options]``.
"""

from __future__ import annotations

import sys
import time
from dataclasses import fields
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies

from distill_jax import mesh
from distill_jax.cli.cost.devices import DEVICES, Device
from distill_jax.cli.cost.hlo import parsed
from distill_jax.cli.cost.memory import parts_of, shapes
from distill_jax.cli.cost.roofline import Loop, Roofline, Work
from distill_jax.cli.cost.shapes import resolved
from distill_jax.cli.output.display import arithmetic, duration, size, table
from distill_jax.contracts import ClassObjective
from distill_jax.distill import Problem, State, run_block
from distill_jax.platform import compiled_for
from distill_jax.spec import Spec
from distill_jax.types import RequestError, lookup

BEGIN, SELECT = "begin_outer", "select"
"""named scopes in ``distill.block`` of the parts that not every inner step takes"""

PREALLOCATED = {"gpu": 0.75, "tpu": 1.0}
"""share of the device memory that jax allocates by default"""


class Memory(NamedTuple):
    """The device memory of one call of the program, in bytes."""

    arguments: int
    """data, pool, state, and results that do not reuse their memory"""
    temporaries: int
    """peak of the intermediate arrays"""

    @property
    def total(self) -> int:
        return self.arguments + self.temporaries


class Advice(NamedTuple):
    """What to give if a program does not fit."""

    arguments: str
    """options that make the largest array on the device smaller"""
    temporaries: str
    """options that make a step smaller"""

    @staticmethod
    def of(problem: Problem, state: State) -> Advice:
        spec = problem.spec
        part = max(parts_of(problem, state, portions=True)[:3], key=lambda part: part.bytes)
        options = []
        if spec.class_chunk > 1 and isinstance(spec.objective, ClassObjective):
            options.append("--class-chunk 1")
        if spec.model_chunk > 1:
            options.append("--model-chunk 1")
        if getattr(spec.net, "dtype", "") == "float32":
            options.append("--net.dtype bfloat16")
        batches = [path for path in ("selector.batch", "objective.batch", "update.batch") if _has(spec, path)]
        options.append("a smaller " + " or ".join(f"--{path}" for path in batches or ["ipc"]))
        return Advice(f"{part.name} {size(part.bytes)}, give {part.knob}", ", ".join(options))


def _has(spec: Spec, path: str) -> bool:
    axis, name = path.split(".")
    return name in {field.name for field in fields(getattr(spec, axis))}


def main(argv: list[str]) -> int:
    """Print the report and return the exit code."""
    # The parent set JAX_PLATFORMS to cpu,cuda to register the CUDA plugin, of which only the compiler is used.
    jax.config.update("jax_platforms", "cpu")
    options, _, experiment, data = resolved(argv)
    device = lookup("device", options.device or "", DEVICES)
    if experiment.spec.steps == 0:
        raise RequestError(f"{options.method} takes no steps, so there is nothing to compile: leave out --device")
    count = options.devices or 1
    with compiled_for(device.platform), mesh.over(topology(device, count)):
        problem, state = shapes(experiment.spec, data)
        began = time.perf_counter()
        compiled = compiled_block(problem, state)
    seconds, advice = time.perf_counter() - began, Advice.of(problem, state)
    print(report(device, problem.spec, memory_of(compiled), compiled.as_text(), seconds, advice, count))
    return 0


def compiled_block(problem: Any, state: Any) -> Any:
    """Compile ``distill.run_block`` for the devices of ``mesh.over``. Of the arrays in ``problem`` and ``state``, only
    shapes and dtypes count."""
    problem, state, steps = mesh.replicated(jax.eval_shape(lambda *arrays: arrays, problem, state, np.int32(0)))
    return run_block.lower(problem, mesh.shard_state(state), steps).compile()


def topology(device: Device, count: int) -> Any:
    """Return ``count`` devices of this kind, which this machine lacks."""
    name: dict[str, Any] = {"platform": "tpu", "topology_name": device.topology(count)}
    if device.platform == "gpu":
        name = {"platform": "cuda", "topology_name": device.title, "target_config": device.compiler}
        name |= {"topology": device.topology(count)}
    return topologies.get_topology_desc(**name).devices[:count]


def memory_of(compiled: Any) -> Memory:
    """Return the memory of a compiled program."""
    stats = compiled.memory_analysis()
    results = stats.output_size_in_bytes - stats.alias_size_in_bytes
    return Memory(stats.argument_size_in_bytes + results, stats.temp_size_in_bytes)


# ------------------------------------------------------------------ the report


def report(
    device: Device, spec: Spec, memory: Memory, text: str, seconds: float, advice: Advice, count: int = 1
) -> str:
    """Format the report from the compiled program's ``text``. ``seconds`` is its compile time. ``count`` devices share
    the program."""
    program = parsed(text)
    every = min(spec.selector.every, spec.inner_steps)
    (step, loops), (usual, _), (beginning, _) = (
        Roofline(program, device, skipped, count).step() for skipped in ((BEGIN,), (BEGIN, SELECT), (SELECT,))
    )
    # With a single inner step there is no condition: every step begins an outer iteration.
    outer, selecting = beginning + usual.times(-1), step + usual.times(-1)
    outers = int(spec.outer_steps)
    selections = outers * -(-spec.inner_steps // every)  # each outer iteration begins with one
    run = usual.times(spec.steps) + selecting.times(selections) + outer.times(outers)
    aside = f", of which every {every}th selects; the others take {_time(usual.seconds)}" if every > 1 else ""
    name = device.title if count == 1 else f"{count} x {device.title}"
    long = [loop for loop in loops if loop.trips is None or loop.trips * loop.round.seconds > 0.01 * step.seconds]
    rows = [
        *(_row(_name(loop), loop.round.times(loop.trips or 1), _each(loop)) for loop in long),
        _row("inner step", step, _limits(step)),
        *([_row("outer iteration", outer, "its start: new models")] if outer.seconds > 0.01 * step.seconds else []),
        _row("the run", run, f"{spec.steps:,} steps{aside}"),
    ]
    return "\n".join(
        [
            f"on {name}, compiled without the device in {duration(seconds)} ({_chunks(spec)})",
            "",
            _fits(device, memory, advice),
            "",
            *table([("", "kernels", "bytes moved", "arithmetic", "time", ""), *rows], numbers=True),
            "",
            f"The step is limited by {step.limit}. Memory and kernels are the compiler's. The time is an estimate:",
            f"for each kernel the longest of {1e6 * device.launch:.0f} us, {_rates(device)}.",
            *([_sends(device, step, count)] if count > 1 else []),
            "It excludes pretraining and evaluation." + (OPEN if any(loop.trips is None for loop in loops) else ""),
        ]
    )


OPEN = " A loop whose length depends on the data counts as one iteration."


def _chunks(spec: Spec) -> str:
    """Return the options for chunks that the program heeds."""
    by_class = isinstance(spec.objective, ClassObjective)
    return f"--class-chunk {spec.class_chunk} " * by_class + f"--model-chunk {spec.model_chunk}"


def _row(name: str, work: Work, note: str) -> tuple[str, ...]:
    return name, f"{work.kernels:,.0f}", size(work.bytes), arithmetic(work.flops), _time(work.seconds), note


def _name(loop: Loop) -> str:
    return "loop of unknown length" if loop.trips is None else f"loop of {loop.trips} iterations"


def _each(loop: Loop) -> str:
    return f"{loop.round.kernels:,.0f} kernels and {_time(loop.round.seconds)} each"


def _limits(work: Work) -> str:
    """Format the share of each limit."""
    parts = {"launches": work.launches, "traffic": work.traffic, "arithmetic": work.arithmetic}
    parts |= {"exchange": work.exchange} if work.exchange else {}
    return ", ".join(f"{name} {100 * part / work.seconds:.0f} %" for name, part in parts.items())


def _sends(device: Device, step: Work, count: int) -> str:
    return (
        f"All figures are those of one device. It sends {size(step.sent)} per step to the others at "
        f"{1e-9 * device.link(count):.0f} GB/s, and waits for them."
    )


def _time(seconds: float) -> str:
    return duration(seconds) if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def _rates(device: Device) -> str:
    """Format the rates that bytes and operations are divided by."""
    _, per_byte, per_wide = device.seconds(1, 1, narrow=False)
    per_narrow = device.seconds(1, 1, narrow=True)[2]
    half = f" ({1e-12 / per_narrow:.0f} in bfloat16)" if per_narrow != per_wide else ""
    return f"bytes / {1e-12 / per_byte:.2f} TB/s and FLOP / {1e-12 / per_wide:.3g} TF/s{half}"


def _fits(device: Device, memory: Memory, advice: Advice) -> str:
    share = memory.total / device.memory
    if share <= PREALLOCATED[device.platform]:
        verdict = "it fits"
    elif share <= 0.95:
        verdict = "it fits with XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 in the environment"
    elif memory.arguments > device.memory:
        verdict = f"it does NOT fit: {advice.arguments}"
    else:
        verdict = f"it does NOT fit: try {advice.temporaries}"
    return (
        f"memory: {size(memory.arguments)} of data and state, {size(memory.temporaries)} of temporaries, "
        f"{100 * share:.1f} % of {size(device.memory)}: {verdict}"
    )


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except RequestError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
