"""A parser for the text of a compiled program (scheduled HLO from ``compiled.as_text()``)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple


class Buffer(NamedTuple):
    """An array in the memory of the device."""

    dtype: str
    """HLO's name of the dtype: f32, bf16, pred, ..."""
    dims: tuple[int, ...]
    on_chip: bool = False
    """whether it is in a TPU's fast memory, so that reading it causes no traffic to main memory"""

    @property
    def size(self) -> int:
        """Size in bytes, without the padding of a TPU's tiles."""
        bits = 8 if self.dtype == "pred" else int("0" + re.sub(r"^[a-z]*(\d*).*", r"\1", self.dtype))
        return math.prod(self.dims) * bits // 8

    @property
    def nbytes(self) -> int:
        """Size in main memory in bytes."""
        return 0 if self.on_chip else self.size


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    buffers: tuple[Buffer, ...]
    """its results: one buffer, or the flattened buffers of a tuple"""
    opcode: str
    operands: tuple[str, ...]
    """names of instructions in the same computation"""
    rest: str
    """the text of its attributes, preceded by the number of a parameter or the value of a constant"""

    def attribute(self, name: str) -> str:
        """Return the value of ``name=...``, up to the next comma or blank and without braces and quotes; '' if it is
        missing."""
        found = re.search(rf'[ ,]{name}=(?:"([^"]*)"|\{{([^}}]*)\}}|([^, ]*))', self.rest)
        return next((group for group in found.groups() if group is not None), "") if found else ""

    def called(self, *names: str) -> list[str]:
        """Return the computations that these attributes refer to."""
        return [part.strip().lstrip("%") for name in names for part in self.attribute(name).split(",") if part.strip()]

    @property
    def number(self) -> int | None:
        """The number of a parameter or the value of an integer constant."""
        found = re.match(r"\s*(\d+)\)", self.rest)
        return int(found.group(1)) if found else None


class Computation:
    """A sequence of instructions in execution order."""

    def __init__(self, instructions: list[Instruction], root: str) -> None:
        self.instructions = instructions
        self.root = root

    @cached_property
    def by_name(self) -> dict[str, Instruction]:
        return {one.name: one for one in self.instructions}

    @cached_property
    def users(self) -> Mapping[str, list[Instruction]]:
        """The instructions that read the result of each instruction."""
        users: dict[str, list[Instruction]] = {one.name: [] for one in self.instructions}
        for one in self.instructions:
            for operand in dict.fromkeys(one.operands):
                users.setdefault(operand, []).append(one)
        return users

    def parameter(self, number: int) -> Instruction | None:
        """Return the parameter with this number, or None if a fusion does not use it."""
        parameters = (one for one in self.instructions if one.opcode == "parameter")
        return next((one for one in parameters if one.number == number), None)


class Program(NamedTuple):
    """A compiled program."""

    computations: Mapping[str, Computation]
    entry: str

    def trips(self, loop: Instruction) -> int | None:
        """Return the trip count of a loop, or None if it is not known at compile time."""
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest)
        if known:
            return int(known.group(1))
        # The TPU compiler does not state it. jax's loops count from 0 by 1 to a constant.
        condition = self.computations[loop.called("condition")[0]]
        last = condition.by_name[condition.root]
        if last.opcode != "compare" or last.attribute("direction") != "LT":
            return None
        end = condition.by_name[last.operands[1]]
        return end.number if end.opcode == "constant" else None


_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"\s*([\w\-]+)\(")
_BUFFER = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,<=]*)\](\{[^}]*\})?")


def parsed(text: str) -> Program:
    """Parse a program. Raise ValueError if ``text`` is not one."""
    computations: dict[str, Computation] = {}
    entry, name, root = "", "", ""
    body: list[Instruction] = []
    for line in text.splitlines():
        if line == "}" and name:
            computations[name], name = Computation(body, root), ""
        elif (head := _HEAD.match(line)) and not line.startswith("HloModule"):
            name, root, body = head.group(2), "", []
            entry = name if head.group(1) else entry
        elif name and (found := _LINE.match(line)):
            body.append(_instruction(found.group(2), found.group(3)))
            root = body[-1].name if found.group(1) else root
    if not entry:
        raise ValueError("the text has no ENTRY computation: it is not a compiled program")
    return Program(computations, entry)


def _instruction(name: str, text: str) -> Instruction:
    """Parse an instruction such as ``f32[2]{0} add(%a, %b), metadata={...}``."""
    end = _closing(text, 0) if text.startswith("(") else text.index(" ")
    opcode = _OPCODE.match(text, end)
    assert opcode is not None, text
    inside = opcode.end()
    close = _closing(text, inside - 1)
    arguments = text[inside : close - 1]
    literal = opcode.group(1) in ("constant", "parameter")
    operands = () if literal else tuple(re.findall(r"%([\w.\-]+)", arguments))
    rest = text[inside:] if literal else text[close:]
    return Instruction(name, _buffers(text[:end]), opcode.group(1), operands, rest)


def _closing(text: str, start: int) -> int:
    """Return the position after the parenthesis that closes the one at ``start``."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match.group() == "(" else -1
        if depth == 0:
            return match.end()
    raise ValueError(f"a parenthesis is not closed: {text[:80]}")


def _buffers(text: str) -> tuple[Buffer, ...]:
    return tuple(
        Buffer(dtype, tuple(int(d.lstrip("<=")) for d in dims.split(",") if d), bool(re.search(r"S\(\d", layout)))
        for dtype, dims, layout in _BUFFER.findall(text)
    )
