"""The settings that a command line sweeps: options of the method with two or more values."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import fields
from typing import TypeAlias

from distill_jax import sweep
from distill_jax.cli.request import arguments, parser
from distill_jax.recipes import Experiment
from distill_jax.types import Choice, RequestError

Value: TypeAlias = float | str | bool
"""a value of a swept setting: a number, a name or a flag"""


def parse(
    argv: Sequence[str], runner: type[arguments.Options]
) -> tuple[dict[str, list[Value]], list[str], arguments.Options, Experiment]:
    """Return the swept settings, the remaining words, and the options and the experiment that these words set."""
    lists = {name.replace("-", "_") for name in parser.multi_valued(runner)}
    while True:
        swept, rest = take_swept(argv, lists)
        for name in {field.name for field in fields(runner)} & swept.keys() - {"factor"}:
            raise RequestError(f"--{name.replace('_', '-')} takes one value: give several to a setting of the method")
        for name in swept:
            if name.partition(".")[0] == "protocol":
                raise RequestError(f"{name} belongs to the evaluation, which is not swept: run once for each value")
        options, _, default = arguments.parse(rest, runner)
        found = {name: sweep.field_at(default.spec, name) for name in swept if name != "factor"}
        several = {name for name, value in found.items() if isinstance(value, tuple)}
        if not several:
            flags = {name: _flags(name, swept[name]) for name, value in found.items() if isinstance(value, bool)}
            return {**swept, **flags}, rest, options, default
        lists |= several  # several words are one value of these fields


def take_swept(argv: Sequence[str], lists: Container[str] = ()) -> tuple[dict[str, list[Value]], list[str]]:
    """Split ``argv`` into the options with two or more values, by field path, and the remaining words. Options in
    ``lists`` are not swept, because they take several values. Values may be names if METHOD and DATASET come first:
    elsewhere, they could be METHOD and DATASET themselves."""
    names = len(argv) > 1 and not any(word.startswith("-") for word in argv[:2])
    swept: dict[str, list[Value]] = {}
    rest: list[str] = []
    i = 0
    while i < len(argv):
        end = i + 1
        while end < len(argv) and (isinstance(_value(argv[end]), float | int) or (names and argv[end][:1] != "-")):
            end += 1
        name = argv[i].removeprefix("--").replace("-", "_")
        if argv[i].startswith("--") and end > i + 2 and name not in lists:
            swept[name] = [_value(word) for word in argv[i + 1 : end]]
        else:
            rest += argv[i:end]
        i = end
    return swept, rest


def _value(word: str) -> float | str:
    """Return the number that ``word`` is, or else ``word``."""
    for number in (int, float):
        try:
            return number(word)
        except ValueError:
            pass
    return word


def only_numbers(name: str, values: Sequence[Value]) -> list[float]:
    """Return ``values``. Raise RequestError if one is not a number."""
    for value in values:
        if isinstance(value, str):
            raise RequestError(f"{name} is {value}: give numbers")
    return [value for value in values if not isinstance(value, str)]


def _flags(name: str, values: Sequence[Value]) -> list[Value]:
    """Return the values of a flag. Raise RequestError if one is neither true nor false."""
    words = [str(value).lower() for value in values]
    if not {"true", "false"} >= set(words):
        raise RequestError(f"{name} is {' '.join(words)}: a flag takes the values true false")
    return [word == "true" for word in words]


def fitting(argv: Sequence[str], axis: str, choice: Choice) -> list[str]:
    """Return ``argv`` without the options of ``axis`` that ``choice`` has no field for, such as --models.size for
    --models random."""
    known = {field.name for field in fields(choice)}
    kept, fits = [], True
    for word in argv:
        if word.startswith("--"):
            head, dot, path = word[2:].partition("=")[0].replace("-", "_").partition(".")
            name = path.partition(".")[0]
            fits = head != axis or not dot or name in known or name.removeprefix("no_") in known
        kept += [word] if fits else []
    return kept
