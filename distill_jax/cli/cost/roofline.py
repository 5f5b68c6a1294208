"""A roofline estimate of a compiled program: each kernel takes the longest of its launch, traffic and arithmetic, and
each collective operation the time to send its bytes.

The body of a loop counts once per iteration, or once if the trip count is unknown. Of a condition the most expensive
branch counts, unless the condition belongs to a part of the program that is said to be skipped. The estimate is
computed from the text of the program without running it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from distill_jax.cli.cost.devices import Device
from distill_jax.cli.cost.hlo import Buffer, Computation, Instruction, Program


class Work(NamedTuple):
    """The work of a part of a program. Its seconds are split by the bound of each kernel."""

    kernels: float = 0
    bytes: float = 0
    flops: float = 0
    launches: float = 0
    """seconds of kernels that are bound by their launch"""
    traffic: float = 0
    """seconds of kernels that are bound by memory traffic"""
    arithmetic: float = 0
    """seconds of kernels that are bound by arithmetic"""
    exchange: float = 0
    """seconds of collective operations, which are assumed not to overlap with kernels"""
    sent: float = 0
    """bytes that each device sends to others"""

    @property
    def seconds(self) -> float:
        return self.launches + self.traffic + self.arithmetic + self.exchange

    @property
    def limit(self) -> str:
        """'launches', 'traffic', 'arithmetic' or 'exchange', whichever takes most of the time."""
        return max(("launches", "traffic", "arithmetic", "exchange"), key=lambda name: getattr(self, name))

    def __add__(self, other: tuple[float, ...]) -> Work:  # type: ignore[override]
        return Work(*(a + b for a, b in zip(self, other, strict=True)))

    def times(self, n: float) -> Work:
        return Work(*(n * a for a in self))


class Loop(NamedTuple):
    """A loop inside the counted part of a program."""

    trips: int | None
    """number of iterations; None if it depends on the data"""
    round: Work
    """work of one iteration, including inner loops"""


FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id",
    "opt-barrier", "add-dependency", "domain",
}  # fmt: skip
"""instructions that start no kernel; the ``-done`` of an asynchronous instruction does not start one either"""
COLLECTIVES: dict[str, Callable[[int], float]] = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: n - 1,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1,
}
"""bytes that each of n devices in a ring sends for each byte of its result"""
FREE_CALLS = (
    "AllocateBuffer", "AssumeGatherIndicesInBound", "ConcatBitcast", "GatherScatterIndicesBitpacked", "Sharding",
)  # fmt: skip


class Roofline:
    """A program on a device."""

    def __init__(self, program: Program, device: Device, skipped: tuple[str, ...] = (), count: int = 1) -> None:
        """Of a condition inside a named scope in ``skipped`` (``jax.named_scope``), the cheapest branch counts.
        ``count`` devices share the program."""
        self.program = program
        self.device = device
        self.count = count
        self.skipped = skipped
        self._works: dict[str, Work] = {}

    def step(self) -> tuple[Work, list[Loop]]:
        """Return the work of one iteration of the outermost loop of unknown length, and the loops in the branches that
        count. If there is no such loop, return those of the whole program."""
        entry = self.program.computations[self.program.entry]
        open_ = [one for one in entry.instructions if one.opcode == "while" and self.program.trips(one) is None]
        if not open_:
            return self.work(self.program.entry), self._loops(self.program.entry)
        body = max((one.called("body")[0] for one in open_), key=lambda name: self.work(name).seconds)
        condition = next(one.called("condition")[0] for one in open_ if one.called("body")[0] == body)
        return self.work(body) + self.work(condition), self._loops(body)

    def work(self, computation: str) -> Work:
        """Return the work of one run of a computation."""
        if computation not in self._works:
            body = self.program.computations[computation]
            self._works[computation] = sum((self._of(one, body) for one in body.instructions), Work())
        return self._works[computation]

    def _loops(self, computation: str) -> list[Loop]:
        """Return the loops of a computation, without nested loops."""
        found = []
        for one in self.program.computations[computation].instructions:
            if one.opcode == "while":
                found.append(Loop(self.program.trips(one), self.work(one.called("body")[0])))
            elif one.opcode == "conditional":
                found += self._loops(self._branch(one))
            elif one.opcode == "call":
                found += self._loops(one.called("to_apply")[0])
        return found

    def _of(self, one: Instruction, body: Computation) -> Work:
        code = one.opcode
        if code == "while":
            round_ = self.work(one.called("body")[0])
            # The condition of a loop of known length is evaluated by the host.
            trips = self.program.trips(one)
            return round_ + self.work(one.called("condition")[0]) if trips is None else round_.times(trips)
        if code == "conditional":
            return self.work(self._branch(one))
        if code == "call" or (code == "async-start" and one.called("calls")):
            return self.work((one.called("to_apply") + one.called("calls"))[0])
        kind, asynchronous, _ = code.partition("-start")
        if kind in COLLECTIVES:
            results = one.buffers[len(one.buffers) // 2 :] if asynchronous and len(one.buffers) > 1 else one.buffers
            sent = COLLECTIVES[kind](self.count) * sum(buffer.size for buffer in results)
            return Work(1, exchange=max(self.device.launch, sent / self.device.link(self.count)), sent=sent)
        if code in FREE or code.endswith("-done") or one.attribute("custom_call_target") in FREE_CALLS:
            return Work()
        nbytes, (flops, narrow) = self._traffic(one, body), self._flops(one, body)
        seconds = self.device.seconds(nbytes, flops, narrow)
        if code.endswith("-start"):  # an asynchronous transfer to or from the chip
            return Work(0, nbytes, 0, 0, seconds[1], 0)
        bound = [t if t == max(seconds) else 0.0 for t in seconds]
        return Work(1, nbytes, flops, *bound)

    def _branch(self, one: Instruction) -> str:
        """Return the branch of a condition that counts."""
        scopes = re.search(r'op_name="([^"]*)"', one.rest)
        side = min if scopes and set(self.skipped) & set(scopes.group(1).split("/")) else max
        sides = one.called("true_computation", "false_computation", "branch_computations")
        return side(sides, key=lambda name: self.work(name).seconds)

    # -------------------------------------------------------------- bytes

    def _traffic(self, one: Instruction, body: Computation) -> int:
        """Return the bytes that one kernel reads and writes."""
        operands = [body.by_name[name] for name in one.operands if name in body.by_name]
        if one.opcode == "fusion":
            inner = self.program.computations[one.called("calls")[0]]
            return sum(self._read(inner, i, each) for i, each in enumerate(operands)) + self._written(inner, inner.root)
        if one.opcode in ("dynamic-slice", "gather", "slice"):
            return 2 * _nbytes(one)
        if one.opcode in ("dynamic-update-slice", "scatter"):
            return 2 * _nbytes(operands[UPDATE[one.opcode]])
        if one.opcode == "slice-start":
            return 0 if operands[0].buffers[0].on_chip else one.buffers[1].size
        # The further results of a library call or an asynchronous copy are scratch memory.
        results = one.buffers[:1] if one.opcode in ("custom-call", "copy-start") else one.buffers
        return sum(map(_nbytes, operands)) + sum(buffer.nbytes for buffer in results)

    def _read(self, inner: Computation, number: int, operand: Instruction) -> int:
        """Return the bytes that a fusion reads of its operand ``number``: all, or less if all its users take slices."""
        parameter = inner.parameter(number)
        return 0 if parameter is None else min(self._read_by_users(inner, parameter.name), _nbytes(operand))

    def _read_by_users(self, inner: Computation, name: str) -> int:
        total = 0
        for user in inner.users[name]:
            if user.opcode in ("dynamic-slice", "gather", "slice") and user.operands[0] == name:
                total += _nbytes(user)
            elif user.opcode in UPDATE and user.operands[0] == name:
                continue  # updated in place
            elif user.opcode == "bitcast":
                total += self._read_by_users(inner, user.name)
            elif user.opcode == "fusion":
                nested = self.program.computations[user.called("calls")[0]]
                total += sum(
                    self._read(nested, i, inner.by_name[name]) for i, o in enumerate(user.operands) if o == name
                )
            else:
                return _nbytes(inner.by_name[name])
        return total

    def _written(self, inner: Computation, name: str) -> int:
        """Return the bytes that a fusion writes of its result ``name``; for an update in place, the updated part."""
        one = inner.by_name[name]
        if one.opcode == "tuple":
            return sum(self._written(inner, each) for each in one.operands)
        if one.opcode == "bitcast":
            return self._written(inner, one.operands[0])
        if one.opcode in UPDATE and _origin(inner, one.operands[0]).opcode == "parameter":
            return _nbytes(inner.by_name[one.operands[UPDATE[one.opcode]]])
        return _nbytes(one)

    # -------------------------------------------------------------- arithmetic

    def _flops(self, one: Instruction, body: Computation) -> tuple[float, bool]:
        """Return the FLOPs of convolutions and matrix products (0 for others), and whether their operands have 16
        bits."""
        if one.opcode == "fusion":
            inner = self.program.computations[one.called("calls")[0]]
            each = [self._flops(part, inner) for part in inner.instructions if part.opcode in MATRIX]
            return sum(flops for flops, _ in each), any(narrow for flops, narrow in each if flops)
        if one.opcode not in MATRIX:
            return 0, False
        operands = [body.by_name[name].buffers[0] for name in one.operands if name in body.by_name]
        narrow = bool(operands) and operands[0].dtype in ("bf16", "f16")
        target = one.attribute("custom_call_target")
        if one.opcode == "convolution":
            return _convolution(one, operands), narrow
        if one.opcode == "dot" or "matmul" in target or "gemm" in target:
            contracted = re.search(r'lhs_contracting_dim(?:ension)?s"?[=:][{\[]([\d,"]*)', one.rest)
            axes = [int(axis) for axis in re.findall(r"\d+", contracted.group(1) if contracted else "")]
            terms = math.prod(operands[0].dims[axis] for axis in axes)
            return 2 * math.prod(one.buffers[0].dims) * terms, narrow
        if "conv" in target and one.attribute("dim_labels"):
            return _library_convolution(target, one, operands), narrow
        return 0, False


MATRIX = ("convolution", "dot", "custom-call", "fusion")
UPDATE = {"dynamic-update-slice": 1, "scatter": 2}
"""number of the operand that is written into the first operand"""


def _library_convolution(target: str, one: Instruction, operands: list[Buffer]) -> float:
    """Return the FLOPs of a cuDNN convolution, which labels dimensions as in the forward convolution in all cases."""
    out, (x, y) = one.buffers[0], operands[:2]
    forward, kernel = (x, out) if "BackwardFilter" in target else (out, y)
    if "BackwardFilter" in target:
        forward = y
    elif "BackwardInput" in target:
        forward = x
    outputs = kernel.dims[re.split("[_>-]+", one.attribute("dim_labels"))[1].index("o")]
    return 2 * math.prod(forward.dims) * math.prod(kernel.dims) / outputs


def _convolution(one: Instruction, operands: list[Buffer]) -> float:
    """Return 2 FLOPs per product whose factors both lie inside the arrays. The TPU compiler writes batched products as
    convolutions whose windows mostly cover padding."""
    lhs, rhs, out = re.split("[_>-]+", one.attribute("dim_labels"))
    x, kernel = operands[:2]
    window = dict(part.split("=") for part in one.attribute("window").split())
    spatial = sorted(label for label in out if label.isdigit())
    sizes = [int(n) for n in window.get("size", "").split("x") if n]
    strides, lows = _numbers(window.get("stride"), len(sizes), 1), _numbers(window.get("pad"), len(sizes), 0)
    base, taps = _numbers(window.get("lhs_dilate"), len(sizes), 1), _numbers(window.get("rhs_dilate"), len(sizes), 1)
    inside = 1
    for i, label in enumerate(spatial):
        width, length = x.dims[lhs.index(label)], one.buffers[0].dims[out.index(label)]
        at = np.arange(length)[:, None] * strides[i] + np.arange(sizes[i])[None, :] * taps[i] - lows[i]
        inside *= int(np.sum((at >= 0) & (at <= (width - 1) * base[i]) & (at % base[i] == 0)))
    batch, features = (one.buffers[0].dims[out.index(label)] for label in "bf")
    return 2 * batch * features * kernel.dims[rhs.index("i")] * inside


def _numbers(text: str | None, count: int, default: int) -> list[int]:
    """Return the first number of each part of a text such as ``1_1x2_2``."""
    return [int(part.split("_")[0]) for part in text.split("x")] if text else [default] * count


def _origin(inner: Computation, name: str) -> Instruction:
    one = inner.by_name[name]
    return _origin(inner, one.operands[0]) if one.opcode in ("bitcast", "copy") else one


def _nbytes(one: Instruction) -> int:
    return sum(buffer.nbytes for buffer in one.buffers)
