"""A file of settings, ``--config FILE``, which overrides the recipe and is overridden by the command line.

    {"recipe": "mnist", "net.width": 32, "optimiser.lr": 0.0001}

A name is an option without its dashes: a field of Spec, of a choice or of the protocol, the choice on an axis,
``protocol``, ``recipe``, ``subset`` or ``factor``. A list gives an option several values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from distill_jax.recipes import Experiment
from distill_jax.spec import CHOICES
from distill_jax.sweep import field_at
from distill_jax.types import RequestError, near_miss

NAMES = ("recipe", "subset", "factor", "protocol", *CHOICES)
"""names, besides fields, that a file may set"""


def read(file: str | None) -> dict[str, Any]:
    """Return the settings in ``file``; no settings for None. Raise RequestError if it is not a JSON object of strings,
    numbers, booleans and lists of them."""
    if file is None:
        return {}
    try:
        content = json.loads(Path(file).read_text())
    except (OSError, ValueError) as error:
        raise RequestError(f"--config {file} cannot be read ({error}): give a JSON file") from error
    if not isinstance(content, dict):
        raise RequestError(f'--config {file} has no settings: write an object, as in {{"optimiser.lr": 0.01}}')
    if "schema" in content:
        raise RequestError(f"--config {file} is the config.json of a run: give a file with settings by option name")
    for name, value in content.items():
        if value is None or isinstance(value, Mapping):
            if not value:
                raise RequestError(
                    f'--config {file}: {name} has no value: give one, or "None" where --help-all says so'
                )
            field, of_field = next(iter(value.items()))
            example = json.dumps({f"{name}.{field}": of_field})[1:-1]
            raise RequestError(f"--config {file}: {name} is an object: write each field by name, as in {example}")
    return {name.replace("-", "_"): value for name, value in content.items()}


def words(settings: Mapping[str, Any], given: Container[str]) -> list[str]:
    """Return ``settings`` as words of a command line, without the options in ``given`` (spelt with dashes)."""
    line: list[str] = []
    for name, value in settings.items():
        option = name.replace("_", "-")
        front, dot, last = option.rpartition(".")
        negated = f"{front}{dot}no-{last}"
        aliases = {"factor", "parameterisation.factor"}
        if any(other in given for other in (aliases if option in aliases else {option, negated})):
            continue
        if isinstance(value, bool):
            line.append(f"--{option if value else negated}")
        else:
            line += [
                f"--{option}",
                *map(str, value if isinstance(value, Sequence) and value != str(value) else [value]),
            ]
    return line


@contextmanager
def named(file: str | None, settings: Mapping[str, Any], given: Container[str]) -> Iterator[None]:
    """Add the name of the ``file`` to a RequestError in the block about one of its ``settings``. Options in ``given``
    (spelt with dashes) are not the file's."""
    try:
        yield
    except RequestError as error:
        said = str(error).replace("--", "").replace("-", "_")
        names = [name for name in settings if re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", said)]
        if str(error).startswith("--config") or all(name.replace("_", "-") in given for name in names):
            raise
        raise RequestError(f"--config {file}: {error}") from error


def check(file: str, settings: Mapping[str, Any], experiment: Experiment, options: Container[str]) -> None:
    """Raise RequestError, suggesting the nearest name, if ``experiment`` has no field for a setting. ``options``: the
    names of the runner's own options, which a file cannot set."""
    names = [*NAMES, *(field.name for field in fields(experiment.spec))]
    of_protocol = [f"protocol.{field.name}" for field in fields(experiment.protocol)]
    for name in settings:
        head, dot, field = name.partition(".")
        try:
            if head == "protocol" and dot:
                if f"protocol.{field.partition('.')[0]}" not in of_protocol:
                    raise RequestError(f"{name} is unknown: {near_miss(name, of_protocol)}")
            elif dot:
                before, value = field_at(experiment.spec, name), settings[name]
                if isinstance(before, bool) and not isinstance(value, bool):
                    raise RequestError(f"{name} is {json.dumps(value)}: write true or false, without quotes")
                if isinstance(value, list) and not isinstance(before, tuple):
                    raise RequestError(f"{name} is {json.dumps(value)}: give one value")
            elif name not in names and name in options:
                raise RequestError(f"{name} is no setting: give --{name.replace('_', '-')} on the command line")
            elif name not in names:
                raise RequestError(f"{name} is unknown: {near_miss(name, names)}")
        except RequestError as error:
            raise RequestError(f"--config {file}: {error}") from None
