"""The abstract arrays of a run, and a check before any work that the resident ones fit on the device."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax

from distill_jax import mesh
from distill_jax.cli.cost.shapes import real_shapes
from distill_jax.cli.output.display import size
from distill_jax.data import Dataset
from distill_jax.distill import Problem, State, init_state
from distill_jax.platform import target
from distill_jax.run import no_tick, with_chunks
from distill_jax.spec import Spec, as_arrays
from distill_jax.tree import nbytes
from distill_jax.types import Net, PyTree, RealData, RequestError

ROOT = Path("/")


class Part(NamedTuple):
    """A group of arrays that stays on the device."""

    name: str
    bytes: int
    knob: str
    """options that make it smaller"""


def check_fits(spec: Spec, data: Dataset, resident: int | None = None) -> str:
    """Return a line about the memory that a run of ``spec``, with resolved chunks, needs on one device.

    The line is empty if the run needs less than half of the available memory, or if its memory cannot be computed.
    ``resident`` is the number of real images per class on the device (0: all), or None if the command has no such
    option. Raise RequestError, naming the most effective option, if the run does not fit.
    """
    free = available()
    try:
        parts = resident_parts(spec, data, resident)
    except Exception:  # a user's choice that cannot be traced
        return ""
    needed = sum(part.bytes for part in parts)
    if free is None or 2 * needed <= free:
        return ""
    amounts = ", ".join(f"{part.name} {size(part.bytes)}" for part in parts if part.bytes)
    if needed > free:
        knob = max(parts, key=lambda part: part.bytes).knob
        raise RequestError(f"{amounts} do not fit in the {size(free)} of free memory: give {knob}")
    return f"memory: {amounts}, {100 * needed / free:.0f} % of the {size(free)} of free memory"


def resident_parts(spec: Spec, data: Dataset, resident: int | None = None) -> list[Part]:
    """Return the arrays of a run that stay on one device, and the real images of a step, the least that it adds."""
    counts = [min(resident or count, count) for count in data.counts.tolist()]
    problem, state = shapes(spec, real_shapes(sum(counts), data.shape, counts))
    return parts_of(problem, state, resident is not None)


def parts_of(problem: Problem, state: State, portions: bool) -> list[Part]:
    """Return the parts of ``resident_parts``. ``portions``: whether the command has the option --resident-images."""
    data, spec = problem.data, problem.spec
    batch = 4 * spec.class_chunk * spec.selector.batch * math.prod(data.images.shape[1:])
    fewer = "a smaller --side, or some of the classes with --subset"
    if portions:
        fewer = f"fewer of a class at a time with --resident-images (now {data.index.shape[1]}), or {fewer}"
    return [
        Part("real images", nbytes(data), fewer),
        Part("pool", nbytes(problem.pool), "a smaller --models.size"),
        Part("synthetic images and state", nbytes(state), "a smaller --ipc"),
        Part("a step's real images", batch, "--class-chunk 1, or a smaller --selector.batch"),
    ]


def shapes(spec: Spec, data: RealData) -> tuple[Problem, State]:
    """Return the problem of ``spec`` and its initial state, made of ``jax.ShapeDtypeStruct``."""
    _, height, width, channels = data.images.shape
    spec = as_arrays(with_chunks(spec, (height, width, channels), data.classes, target()))
    net = spec.net.build((height, width, channels), data.classes)
    key = jax.eval_shape(jax.random.key, 0)
    # Traced for the number of networks that train at once, so that the pretraining of the run reuses the trace.
    size, some = spec.models.size, jax.eval_shape(*pretraining(spec, net, data, key, mesh.size()))
    pool = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype), some)
    problem = Problem(spec, net, data, pool, key)
    return problem, jax.eval_shape(init_state, problem)


def pretraining(spec: Spec, net: Net, data: RealData, key: jax.Array, networks: int = 1) -> tuple[Any, ...]:
    """Return a function that trains a pool of at most ``networks`` networks, and its arguments. Tracing a hundred
    experts would take half a minute."""
    networks = min(networks, spec.models.size)
    models: Any = replace(spec.models, size=networks) if networks else spec.models  # type: ignore[type-var]

    def pretrain(models: Any, data: RealData, key: jax.Array) -> PyTree:
        return models.pretrain(net, data, key, no_tick)

    return pretrain, models, data, key


def available() -> int | None:
    """Return the free bytes of the first device if it reports them, else the smaller of the free bytes of this machine
    and of its control group; None if they are unknown."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return min([*_machine(), *_control_groups()], default=None)


def _machine() -> Iterator[int]:
    fields = _fields(ROOT / "proc/meminfo")
    if "MemAvailable:" in fields:
        yield 1024 * fields["MemAvailable:"]


def _control_groups() -> Iterator[int]:
    """Yield the free bytes of each control group of this process and its ancestors. Cached file pages count as free,
    because the kernel drops them when memory is short."""
    try:
        lines = (ROOT / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            top, limit, used, file = "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_{}active_file"
        elif not controllers:
            top, limit, used, file = "", "memory.max", "memory.current", "{}active_file"
        else:
            continue
        top = ROOT / "sys/fs/cgroup" / top
        own = top / path.strip("/")
        # In a container the path may be that of the host, which is not visible inside; then the top group applies.
        for group in (own, *own.parents):
            if not group.is_relative_to(top):
                break
            most = _number(group / limit)
            if most is not None:
                stat = _fields(group / "memory.stat")
                pages = sum(stat.get(file.format(kind), 0) for kind in ("", "in"))
                yield max(0, most - max(0, (_number(group / used) or 0) - pages))


def _number(path: Path) -> int | None:
    """Return the number in a file; None if the file is missing or says "max"."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _fields(path: Path) -> dict[str, int]:
    """Parse a file with lines of the form ``name number``."""
    try:
        return {words[0]: int(words[1]) for words in map(str.split, path.read_text().splitlines()) if len(words) > 1}
    except (OSError, ValueError):
        return {}
