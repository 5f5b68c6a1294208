"""The choices of an experiment by their names on the command line."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, get_type_hints

from distill_jax.contracts import Architecture, Augmentation, ClassObjective, SetObjective
from distill_jax.recipes import Experiment, replaced
from distill_jax.spec import CHOICES, Spec, from_json
from distill_jax.types import Choice, RequestError, lookup


def choose(axis: str, name: str, preset: Any = None, option: str = "") -> Any:
    """Return the choice ``name`` on ``axis``, with its defaults. ``name``: a key of ``spec.CHOICES``, or
    ``module:Class``. ``option``: the option that gave the name; default: --AXIS.

    Returns ``preset`` unchanged if it is already of that class. Raises RequestError for an unknown name.
    """
    given = f"{option or f'--{axis}'} {name}"
    if ":" in name:
        module, _, attribute = name.partition(":")
        if not all(part.isidentifier() for part in (*module.split("."), attribute)):
            raise RequestError(f"{given} does not name a class: write MODULE:CLASS, as in my_module:MyClass")
        try:
            make = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            absent = getattr(error, "name", None) not in (module, module.partition(".")[0])
            needs = isinstance(error, ModuleNotFoundError) and absent
            mend = "install what it imports" if needs else "check its name, and run in the folder of its file"
            raise RequestError(f"{given} cannot be imported ({error}): {mend}") from error
        except RequestError:
            raise
        except Exception as error:
            error.add_note(f"This error is in a file that {given} imports.")
            raise
        if not isinstance(make, type):
            raise RequestError(f"{given} is not a class: write MODULE:CLASS of a @choice")
    else:
        make = lookup(axis, name, CHOICES[axis])
    if isinstance(make, type) and type(preset) is make:
        return preset
    try:
        choice = make()
    except TypeError as error:
        missing = ", ".join(sorted(getattr(make, "__abstractmethods__", ())))
        mend = f"define {missing}" if missing else "give every field a default"
        raise RequestError(f"{given} cannot be constructed ({error}): {mend}") from error
    contract = get_type_hints(Spec)[axis]
    usual = ClassObjective | SetObjective if axis == "objective" else contract
    if "__dataclass_fields__" not in vars(type(choice)) or not isinstance(choice, usual):
        if isinstance(choice, Choice) and choice.axis not in ("", axis):
            raise RequestError(f"{given} does not fit: it is a choice for --{choice.axis}")
        base = "ClassObjective or SetObjective" if axis == "objective" else contract.__name__
        raise RequestError(f"{given} does not fit: make it a @choice that inherits contracts.{base}")
    return choice


def choice_name(axis: str, choice: Any) -> str:
    """Return the name of ``choice`` on the command line."""
    defaults = {name: make() for name, make in CHOICES[axis].items()}
    equal = [name for name, other in defaults.items() if other == choice]
    same_class = [name for name, other in defaults.items() if type(other) is type(choice)]
    return next(iter(equal + same_class), f"{type(choice).__module__}:{type(choice).__name__}")


def with_nested(
    argv: Sequence[str], options: Mapping[str, str], experiment: Experiment
) -> tuple[list[str], Experiment]:
    """Return ``experiment`` with the augmentations that ``options``, the options of ``argv``, name inside its choices
    and its protocol, as in ``--update.augment none``, and ``argv`` without these options."""
    parts = {axis: getattr(experiment.spec, axis) for axis in CHOICES} | {"protocol": experiment.protocol}
    rest = list(argv)
    for name, part in parts.items():
        path, inside = f"{name}.augment", {field.name: getattr(part, field.name) for field in fields(part)}
        if path in options and isinstance(inside.get("augment"), Augmentation):
            chosen = choose("augment", options[path], inside["augment"])
            experiment = replaced(experiment, (*(["spec"] if name in CHOICES else []), name, "augment"), chosen)
            rest = _without(rest, f"--{path}")
    return rest, experiment


def _without(argv: Sequence[str], option: str) -> list[str]:
    """Return ``argv`` without ``option`` and its value."""
    words = [word for word in argv if not word.startswith(f"{option}=")]
    while option in words:
        at = words.index(option)
        del words[at : at + 2]
    return words


def network_of(card: Mapping[str, Any], path: object, needed: bool) -> Architecture | None:
    """Return the network that the ``card`` of the set in ``path`` names, which may be of the user's own class, or None
    if it names none. Raise RequestError if it is ``needed`` and its class is not here."""
    description = card.get("net")
    net = from_json(description)
    if net is not None or description is None or not needed:
        return net
    name = description.get("choice", "") if isinstance(description, Mapping) else ""
    try:
        net = from_json(description, choose("net", name)) if ":" in name else None
    except RequestError:
        net = None
    if net is None:
        raise RequestError(
            f"{path} was distilled with the network {name or description}, which is not here: run in the folder of its "
            "file, or give --nets"
        )
    return net
