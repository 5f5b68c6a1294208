"""Will it fit, how long will it take: a step compiled for an accelerator that is not there, and its roofline.

The process that ``compiler.ask`` starts: ``python -m distill_jax.cli.fit METHOD DATASET --device NAME [options]``.
"""

from __future__ import annotations

import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from distill_jax.cli import explain
from distill_jax.cli.devices import DEVICES, Device
from distill_jax.cli.display import arithmetic, duration, size, table
from distill_jax.cli.hlo import parsed
from distill_jax.cli.roofline import Loop, Roofline, Work
from distill_jax.distill import run_block
from distill_jax.platform import compiled_for
from distill_jax.spec import Spec
from distill_jax.types import RequestError, lookup

TAKEN = {"gpu": 0.75, "tpu": 1.0}
"""share of the memory that jax takes unless it is told otherwise"""


class Memory(NamedTuple):
    """What one call of the program occupies on the device, in bytes."""

    arguments: int
    """data, pool, state, and results that do not reuse their memory"""
    temporaries: int
    """everything in between, at the worst moment"""

    @property
    def total(self) -> int:
        return self.arguments + self.temporaries


def main(argv: list[str]) -> int:
    """Print the report; returns the exit code."""
    # The plugin for CUDA was registered under both names; only the compiler of it is used.
    jax.config.update("jax_platforms", "cpu")
    options, _, experiment, data = explain.resolved(argv)
    device = lookup("device", options.device or "", DEVICES)
    if experiment.spec.steps == 0:
        raise RequestError(f"{options.method} takes no steps, so there is nothing to compile: leave out --device")
    with compiled_for(device.platform):
        problem, state = explain.shapes(experiment.spec, data)
        began = time.perf_counter()
        compiled = compiled_block(device, problem, state)
    spec, seconds = problem.spec, time.perf_counter() - began
    print(report(device, spec, memory_of(compiled), compiled.as_text(), seconds))
    return 0


def compiled_block(device: Device, problem: Any, state: Any) -> Any:
    """``distill.run_block`` for ``device``; ``problem`` and ``state`` are made of ``jax.ShapeDtypeStruct``."""
    place = SingleDeviceSharding(_topology(device).devices[0])

    def there(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

    steps = there(jax.ShapeDtypeStruct((), jnp.int32))
    return run_block.lower(*jax.tree.map(there, (problem, state)), steps).compile()


def _topology(device: Device) -> Any:
    if device.platform == "tpu":
        return topologies.get_topology_desc(platform="tpu", topology_name=device.compiler)
    return topologies.get_topology_desc(
        platform="cuda", topology_name=device.title, target_config=device.compiler, topology="1x1x1"
    )


def memory_of(compiled: Any) -> Memory:
    """Of a compiled program."""
    said = compiled.memory_analysis()
    results = said.output_size_in_bytes - said.alias_size_in_bytes
    return Memory(said.argument_size_in_bytes + results, said.temp_size_in_bytes)


# ------------------------------------------------------------------ the report


def report(device: Device, spec: Spec, memory: Memory, text: str, seconds: float) -> str:
    """The answer, from the compiled program's ``text``; ``seconds`` is how long it compiled."""
    program = parsed(text)
    step, loops = Roofline(program, device).step()
    every = min(spec.selector.every, spec.inner_steps)
    run, aside = step.times(spec.steps), ""
    if every > 1:
        usual = Roofline(program, device, dearest=False).step()[0]
        run = usual.times(spec.steps * (1 - 1 / every)) + step.times(spec.steps / every)
        aside = f", of which every {every}th selects anew; the others take {1e3 * usual.seconds:.1f} ms"
    long = [loop for loop in loops if loop.trips * loop.round.seconds > 0.01 * step.seconds]
    rows = [
        *(_row(f"loop of {loop.trips} rounds", loop.round.times(loop.trips), _each(loop)) for loop in long),
        _row("inner step", step, _limits(step)),
        _row("the run", run, f"{spec.steps:,} steps{aside}"),
    ]
    return "\n".join(
        [
            f"on {device.title}, compiled without one in {duration(seconds)} "
            f"(--class-chunk {spec.class_chunk} --model-chunk {spec.model_chunk})",
            "",
            _fits(device, memory),
            "",
            *table([("", "kernels", "bytes moved", "arithmetic", "time", ""), *rows], numbers=True),
            "",
            f"The step is limited by {step.limit}. Memory and kernels are the compiler's. Times are estimates:",
            f"for each kernel the longest of {1e6 * device.launch:.0f} us, {_rates(device)}.",
            "Pretraining and evaluation come on top.",
        ]
    )


def _row(name: str, work: Work, said: str) -> tuple[str, ...]:
    return name, f"{work.kernels:,.0f}", size(work.bytes), arithmetic(work.flops), _time(work.seconds), said


def _each(loop: Loop) -> str:
    return f"{loop.round.kernels:,.0f} kernels and {_time(loop.round.seconds)} each"


def _limits(work: Work) -> str:
    """The share of each limit."""
    parts = {"launches": work.launches, "traffic": work.traffic, "arithmetic": work.arithmetic}
    return ", ".join(f"{name} {100 * part / work.seconds:.0f} %" for name, part in parts.items())


def _time(seconds: float) -> str:
    return duration(seconds) if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def _rates(device: Device) -> str:
    """What traffic and arithmetic are divided by."""
    _, of_byte, of_wide = device.seconds(1, 1, narrow=False)
    of_narrow = device.seconds(1, 1, narrow=True)[2]
    half = f" ({1e-12 / of_narrow:.0f} in bfloat16)" if of_narrow != of_wide else ""
    return f"bytes / {1e-12 / of_byte:.2f} TB/s and FLOP / {1e-12 / of_wide:.3g} TF/s{half}"


def _fits(device: Device, memory: Memory) -> str:
    share = memory.total / device.memory
    if share <= TAKEN[device.platform]:
        verdict = "it fits"
    elif share <= 0.95:
        verdict = "it fits with XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 in the environment"
    elif memory.arguments > device.memory:
        verdict = "it does NOT fit: choose fewer classes at a time (--classes, then join), or smaller images"
    else:
        verdict = "it does NOT fit: try --class-chunk 1 --model-chunk 1, or a smaller batch"
    return (
        f"memory: {size(memory.arguments)} of data and state, {size(memory.temporaries)} in between, "
        f"{100 * share:.1f} % of {size(device.memory)}: {verdict}"
    )


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except RequestError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
