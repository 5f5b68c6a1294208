"""Whether what a run keeps on a device fits there, told before any work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax

from distill_jax.cli import explain
from distill_jax.cli.cost import nbytes
from distill_jax.cli.display import size
from distill_jax.data import Dataset
from distill_jax.spec import Spec
from distill_jax.types import RequestError

ROOT = Path("/")


class Part(NamedTuple):
    """Something that stays on the device."""

    name: str
    bytes: int
    knob: str
    """what makes it smaller"""


def check_fits(spec: Spec, data: Dataset, resident: int | None = None) -> str:
    """What a run of ``spec``, with its chunks resolved, keeps on one device, as a line; empty where that is less than
    half of what there is, or neither can be told. ``resident``: real images of each class at a time (0: all); None:
    there is no such option.

    Raises RequestError, naming the option that helps most, where it does not fit.
    """
    there = available()
    try:
        parts = resident_parts(spec, data, resident)
    except Exception:  # a choice from outside that cannot be traced: then nothing is foretold
        return ""
    needed = sum(part.bytes for part in parts)
    if there is None or 2 * needed <= there:
        return ""
    said = ", ".join(f"{part.name} {size(part.bytes)}" for part in parts if part.bytes)
    if needed > there:
        knob = max(parts, key=lambda part: part.bytes).knob
        raise RequestError(f"{said} do not fit in the {size(there)} that there are: give {knob}")
    return f"memory: {said}, {100 * needed / there:.0f} % of the {size(there)} that there are"


def resident_parts(spec: Spec, data: Dataset, resident: int | None = None) -> list[Part]:
    """What one device keeps of a run, and the real images that a step looks at together, which is the least that it
    adds."""
    counts = [min(resident or count, count) for count in data.counts.tolist()]
    problem, state = explain.shapes(spec, explain.real_shapes(sum(counts), data.shape, counts))
    height, width, channels = data.shape
    batch = 4 * problem.spec.class_chunk * spec.selector.batch * height * width * channels
    fewer = "a smaller --side, or some of the classes with --subset"
    if resident is not None:
        fewer = f"fewer of a class at a time with --resident-images (now {max(counts)}), or {fewer}"
    return [
        Part("real images", nbytes(problem.data), fewer),
        Part("pool", nbytes(problem.pool), "a smaller --models.size"),
        Part("synthetic images and state", nbytes(state), "a smaller --ipc"),
        Part("a step's real images", batch, "--class-chunk 1, or a smaller --selector.batch"),
    ]


def available() -> int | None:
    """Bytes free on the first device where it can tell, else in this machine or its control group, whichever has less;
    None where nobody can tell."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return min([*_machine(), *_control_groups()], default=None)


def _machine() -> Iterator[int]:
    fields = _fields(ROOT / "proc/meminfo")
    if "MemAvailable:" in fields:
        yield 1024 * fields["MemAvailable:"]


def _control_groups() -> Iterator[int]:
    """What the groups that this process is in, and those above them, may still use. Pages of files do not count as
    used: they are given up where memory is short."""
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
        # In a container the path may be that of the host, which is not to be seen from within: there the top is it.
        for group in (own, *own.parents):
            if not group.is_relative_to(top):
                break
            most = _number(group / limit)
            if most is not None:
                stat = _fields(group / "memory.stat")
                pages = sum(stat.get(file.format(kind), 0) for kind in ("", "in"))
                yield max(0, most - max(0, (_number(group / used) or 0) - pages))


def _number(path: Path) -> int | None:
    """What a file says, where that is a number: "max" and a missing file are none."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _fields(path: Path) -> dict[str, int]:
    """{name: number} of a file with lines such as ``name number``."""
    try:
        return {words[0]: int(words[1]) for words in map(str.split, path.read_text().splitlines()) if len(words) > 1}
    except (OSError, ValueError):
        return {}
