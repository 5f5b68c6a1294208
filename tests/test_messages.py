"""Tests that every option and every choice that a message names exists."""

import ast
import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from benchmarks.benchmark import Benchmark
from distill_jax.cli import ablate, analyse, distill, evaluate, export, import_set, pretrain, report, tune
from distill_jax.cli.cost.shapes import Explain
from distill_jax.cli.tables.entrants import Compare
from distill_jax.cli.tables.plan import Reproduce
from distill_jax.evaluation import Protocol
from distill_jax.spec import CHOICES, Spec

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "distill_jax").rglob("*.py")) + sorted((ROOT / "benchmarks").glob("*.py"))
COMMANDS = [
    ablate.Ablate, analyse.Analyse, Benchmark, distill.Distill, evaluate.Evaluate,
    Explain, export.Export, import_set.ImportSet,
    pretrain.Pretrain, report.Report, Compare, Reproduce, tune.Tune,
]  # fmt: skip


def paths(value: object, prefix: str = "") -> set[str]:
    """Return the options of a dataclass and of its nested dataclasses."""
    names = set()
    for field in fields(value):  # type: ignore[arg-type]
        names.add(prefix + field.name)
        part = getattr(value, field.name)
        if is_dataclass(part):
            names |= paths(part, f"{prefix}{field.name}.")
    return names


OPTIONS = {field.name for command in COMMANDS for field in fields(command)}
OPTIONS |= {field.name for field in fields(Spec)} | paths(Protocol(), "protocol.") | {"help", "help_all", "version"}
for _axis, _choices in CHOICES.items():
    OPTIONS |= {path for make in _choices.values() for path in paths(make(), f"{_axis}.")}


def texts(path: Path) -> list[str]:
    """Return all string constants of a file except docstrings, with {} in place of formatted values."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n\n" not in node.value:
            found.append(node.value)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_option_that_a_message_names_exists(path: Path) -> None:
    for text in texts(path):
        for option in re.findall(r"(?<![\w-])--([a-z][a-z.-]*[a-z])(?![\w{])", text):
            if option.startswith("xla") or " " not in text or "{}" in text.split(option)[0][-2:]:
                continue
            assert option.replace("-", "_") in OPTIONS, f"{path.name} names --{option}, which no command has: {text!r}"
        for axis, name in re.findall(r"--(\w+) ([a-z][a-z-]*)", text):
            if axis in CHOICES and name not in ("and", "or", "for", "asks", "to", "has", "is", "with", "out"):
                assert name in CHOICES[axis], f"{path.name} advises --{axis} {name}, which does not exist: {text!r}"
