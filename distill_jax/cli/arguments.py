"""From a command line to a resolved experiment: ``METHOD DATASET [options]``.

Parsed in two stages. First METHOD, DATASET, the recipe, ipc, factor and the choice on each axis are picked out from
anywhere on the line, and give a default experiment. Then tyro parses the whole line over the fields of that default:
``--net.width 32``, ``--optimiser.lr 0.01``. The second stage runs twice, before the data set is read (so that a wrong
option is refused at once) and after it (because recipes depend on the shape of the images).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import (
    Annotated,
    Any,
    ClassVar,
    Generic,
    NamedTuple,
    TypeAlias,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

from tyro.conf import FlagCreatePairsOff, Positional, arg

from distill_jax.cli import backend, config, parser
from distill_jax.cli.read_data import assumed_shape, read, refuse_side
from distill_jax.data import LISTS, Dataset
from distill_jax.methods import PRESETS
from distill_jax.recipes import RECIPE_OF, RECIPES, Experiment, resolve
from distill_jax.spec import CHOICES, Spec, validate
from distill_jax.types import RequestError, lookup

Subset: TypeAlias = Annotated[
    tuple[str, ...] | None,
    arg(
        metavar="CLASS [CLASS ...]",
        help="classes that the data set consists of: names, WordNet ids, numbers or ranges such as 0:10, or one of the "
        f"published lists {' '.join(LISTS)}; default: all",
    ),
]
"""the option --subset of every runner that reads a data set"""

Devices: TypeAlias = Annotated[
    int, arg(help="on a CPU, how many devices it counts as, which share the work; 0: one for each physical core")
]
"""the option --devices of every runner"""

Pool: TypeAlias = Annotated[
    Path | None,
    arg(
        metavar="FOLDER",
        help="models that experiments.pretrain trained; default: those in WORKDIR, else they are pretrained",
    ),
]
"""the option --pool"""


@dataclass(frozen=True)
class Common:
    """The options of every runner that takes METHOD and DATASET; a runner adds its own in a subclass."""

    command: ClassVar[str] = ""
    """what the runner is called, where that is not the name of the class"""

    method: Positional[Annotated[str, arg(metavar="METHOD", help=" ".join(PRESETS))]]
    dataset: Positional[
        Annotated[
            str, arg(metavar="DATASET", help="digits, npz:PATH, folder:PATH, hf:PATH, or a name of TensorFlow Datasets")
        ]
    ]
    subset: Subset = None
    side: Annotated[int | None, arg(metavar="INT")] = None
    """pixels that photographs are resized and cropped to, of folder:, hf: and TFDS' sets of varying size; default: 224,
    and those of folder: and hf: as they are where all are square and equal"""
    recipe: Annotated[
        str | None,
        arg(metavar="NAME", help=f"data set defaults, one of {' '.join(RECIPES)}; named data sets imply theirs"),
    ] = None
    factor: Annotated[int | None, arg(metavar="INT")] = None
    """the same as --parameterisation.factor"""
    config: Annotated[str | None, arg(metavar="FILE")] = None
    """settings, as experiments.tune writes them: JSON, {"optimiser.lr": 0.01}; other options of the line go before"""
    seed: int = 0
    """everything random follows from it"""
    devices: Devices = 0
    deterministic: FlagCreatePairsOff[bool] = False
    """ask a GPU for the same bits in every run"""


Options = TypeVar("Options", bound=Common)


class Request(NamedTuple, Generic[Options]):
    """What a command line asks for."""

    options: Options
    recipe: str
    experiment: Experiment
    data: Dataset


def request(argv: Sequence[str], options: type[Options]) -> Request[Options]:
    """Parse ``METHOD DATASET [options]`` and read the data set.

    Raises RequestError for what makes no sense, and SystemExit after ``--help`` (code 0) or an unknown option (code 2).
    """
    parsed, recipe, experiment = parse(argv, options)
    validate(experiment.spec)
    validate(experiment.protocol, "protocol.")
    if not 0 <= parsed.seed < 2**32:
        raise RequestError(f"seed is {parsed.seed}: give a number from 0 to {2**32 - 1}")
    if parsed.devices < 0:
        raise RequestError(f"devices is {parsed.devices}: it must be 0 (one for each core) or more")
    if parsed.deterministic:
        backend.deterministic_operations()
    data = read(parsed.dataset, parsed.side, chosen_classes(parsed.subset))
    refuse_side(parsed.dataset, parsed.side, data.shape)
    if data.shape != assumed_shape(parsed.dataset, parsed.side):
        parsed, recipe, experiment = parse(argv, options, data.shape)
    return Request(parsed, recipe, experiment, data)


def parse(
    argv: Sequence[str], options: type[Options], shape: tuple[int, int, int] | None = None
) -> tuple[Options, str, Experiment]:
    """The options, the recipe's name and the experiment, reading no data.

    ``shape`` (H, W, c) is that of the images; None: the known shape of a named data set, or 32x32x3.
    """
    given, _ = picked(argv, options)
    settings = config.read(given.get("config"))
    argv = [*argv, *config.words(settings, given)]
    chosen, words = picked(argv, options)
    method, dataset = (words + ["acc_dd", "digits"][len(words) :])[:2]
    preset: Spec = lookup("method", method, PRESETS)
    recipe = chosen.get("recipe", RECIPE_OF.get(dataset, "generic"))
    factor = chosen.get("factor", chosen.get("parameterisation.factor"))
    default = resolve(
        method,
        recipe,
        ipc=_integer("ipc", chosen.get("ipc", str(preset.ipc))),
        shape=shape or assumed_shape(dataset, None if "side" not in chosen else _integer("side", chosen["side"])),
        factor=None if factor is None else _integer("factor", factor),
        axes={axis: choose(axis, chosen[axis], getattr(preset, axis)) for axis in CHOICES if axis in chosen},
        protocol=chosen.get("protocol"),
    )
    if factor is not None and default.spec.parameterisation.factor != int(factor):
        raise RequestError(
            f"{method} stores plain images: add --parameterisation multi-formation for --factor {factor}"
        )

    config.check(chosen.get("config", ""), settings, default)
    names = {axis: choice_name(axis, getattr(default.spec, axis)) for axis in CHOICES}
    parsed = parser.parsed_over(default, names, options, _expanded(argv), options.command)
    if words[:2] != [parsed.method, parsed.dataset]:
        raise RequestError("cannot tell METHOD and DATASET from the values of options: put them first")
    spec = Spec(**{f.name: getattr(parsed, f.name) for f in fields(Spec)})
    return parsed, recipe, Experiment(spec, parsed.protocol)


def chosen_classes(subset: tuple[str, ...] | None) -> tuple[str, ...]:
    """The classes that --subset names; () for all. Raises RequestError where the option stands there without any, as
    an unset variable leaves it."""
    if subset == ():
        raise RequestError("--subset names no class: give at least two, or leave it out for all")
    return subset or ()


def choose(axis: str, name: str, preset: Any = None) -> Any:
    """The choice ``name`` on ``axis``: one of ``spec.CHOICES``, or ``module:Class``, made with its own defaults.

    ``preset`` is returned as it is where it already is of that class. Raises RequestError for an unknown name.
    """
    if ":" in name:
        module, _, attribute = name.partition(":")
        if not module or not attribute:
            raise RequestError(f"--{axis} {name} names no class: write MODULE:CLASS, as in my_module:MyClass")
        try:
            make = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise RequestError(f"--{axis} {name} cannot be imported: {error}") from error
    else:
        make = lookup(axis, name, CHOICES[axis])
    if isinstance(make, type) and type(preset) is make:
        return preset
    try:
        choice = make()
    except TypeError as error:
        raise RequestError(f"--{axis} {name} cannot be made: {error}") from error
    contract = get_type_hints(Spec)[axis]
    if not is_dataclass(choice) or not isinstance(choice, contract):
        asked = "ClassObjective or SetObjective" if axis == "objective" else contract.__name__
        raise RequestError(
            f"--{axis} {name} does not fit: make it a @choice that inherits distill_jax.contracts.{asked}"
        )
    return choice


def choice_name(axis: str, choice: Any) -> str:
    """What ``choice`` is called on the command line."""
    made = {name: make() for name, make in CHOICES[axis].items()}
    equal = [name for name, other in made.items() if other == choice]
    same_class = [name for name, other in made.items() if type(other) is type(choice)]
    return next(iter(equal + same_class), f"{type(choice).__module__}:{type(choice).__name__}")


# ------------------------------------------------------------------ stage 1


def picked(argv: Sequence[str], runner: type[Any]) -> tuple[Mapping[str, str], list[str]]:
    """The options by name with the first value of each, and the words that belong to no option."""
    flags, several = _flags(runner), _several(runner)
    options: dict[str, str] = {}
    words: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        name, equals, value = word[2:].replace("_", "-").partition("=")
        if not word.startswith("-"):
            words.append(word)
        elif equals:
            options[name] = word.partition("=")[2]
        # A choice from outside may have flags that are not known here: what follows them is no value.
        elif name not in flags and word != "-h" and rest and not rest[0].startswith("--"):
            options[name] = rest.pop(0)
            while name in several and rest and not rest[0].startswith("-"):
                rest.pop(0)
    return options, words


def _flags(options: type[Any]) -> set[str]:
    """Options that take no value: those of the runner, and the switches of every choice."""
    hints = get_type_hints(options)
    flags = {"help", "help-all"} | {f.name.replace("_", "-") for f in fields(options) if hints[f.name] is bool}
    for axis, choices in CHOICES.items():
        for make in choices.values():
            switches = [f.name.replace("_", "-") for f in fields(make()) if f.type in (bool, "bool")]
            flags |= {f"{axis}.{prefix}{name}" for name in switches for prefix in ("", "no-")}
    return flags


def _several(runner: type[Any]) -> set[str]:
    """Options of the runner that take all words up to the next option."""
    hints = get_type_hints(runner)
    kinds = {f.name: (hints[f.name], *get_args(hints[f.name])) for f in fields(runner)}
    return {name.replace("_", "-") for name, of in kinds.items() if any(get_origin(kind) is tuple for kind in of)}


def _integer(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise RequestError(f"--{name} takes a whole number, not {text!r}") from None


def _expanded(argv: Sequence[str]) -> list[str]:
    """``argv`` with ``0:20`` after --classes as the twenty numbers that it stands for."""
    words: list[str] = []
    after = False
    for word in argv:
        first, colon, end = word.partition(":")
        if after and colon and first.isdecimal() and end.isdecimal():
            words += map(str, range(int(first), int(end)))
        else:
            words.append(word)
        after = word == "--classes" or (after and not word.startswith("--"))
    return words
