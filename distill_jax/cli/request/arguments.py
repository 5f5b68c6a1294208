"""Parse a command line ``METHOD DATASET [options]`` into a resolved experiment.

Parsing has two stages. The first scans the line for METHOD, DATASET, the recipe, ipc, factor and the choice on each
axis, and builds a default experiment from them. In the second, tyro parses the whole line over its fields, such as
``--net.width 32``. Both run before the data set is read, so that a wrong option is refused at once, and again
afterwards if the images do not have the assumed shape, because recipes depend on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import (
    Annotated,
    Any,
    ClassVar,
    Generic,
    NamedTuple,
    TypeAlias,
    TypeVar,
    get_type_hints,
)

from tyro.conf import FlagCreatePairsOff, Positional, arg

from distill_jax.check_spec import validate
from distill_jax.cli.output.display import OF_STEPS
from distill_jax.cli.process import backend
from distill_jax.cli.request import config, parser
from distill_jax.cli.request.choices import choice_name, choose, with_nested
from distill_jax.cli.request.read_data import assumed_shape, print_once, read, refuse_side
from distill_jax.data import LISTS, Dataset
from distill_jax.evaluation import PROTOCOLS
from distill_jax.methods import BASELINES, PRESETS
from distill_jax.recipes import RECIPE_OF, RECIPES, Experiment, resolve
from distill_jax.spec import CHOICES, Spec
from distill_jax.types import RequestError, lookup

Subset: TypeAlias = Annotated[
    tuple[str, ...] | None,
    arg(
        metavar="CLASS [CLASS ...]",
        help="use only these classes of the data set: names, WordNet ids, numbers or ranges such as 0:10, or one of "
        f"the published lists {' '.join(LISTS)}; default: all classes",
    ),
]
"""the option --subset of every runner that reads a data set"""

Devices: TypeAlias = Annotated[
    int, arg(help="number of devices that JAX sees on a CPU; they share the work. 0: one for each physical core")
]
"""the option --devices of every runner"""

Pool: TypeAlias = Annotated[
    Path | None,
    arg(
        metavar="FOLDER",
        help="models from experiments.pretrain; default: the models in WORKDIR, which are pretrained if missing",
    ),
]
"""the option --pool of every runner that uses a pool of models"""


@dataclass(frozen=True)
class Common:
    """The options of every runner that takes METHOD and DATASET. A runner adds its own in a subclass."""

    command: ClassVar[str] = ""
    """name of the runner, if it differs from the name of the class"""
    unknown: ClassVar[str] = ""
    """advice about options that the runner does not have"""

    method: Positional[Annotated[str, arg(metavar="METHOD", help=" ".join(PRESETS))]]
    dataset: Positional[
        Annotated[
            str, arg(metavar="DATASET", help="digits, npz:PATH, folder:PATH, hf:PATH, or a name of TensorFlow Datasets")
        ]
    ]
    subset: Subset = None
    side: Annotated[int | None, arg(metavar="INT")] = None
    """resize and crop photographs (folder:, hf:, TFDS data sets of varying size) to this many pixels per side; default:
    224, but folder: and hf: keep the size of images that are all square and of equal size"""
    recipe: Annotated[
        str | None,
        arg(
            metavar="NAME",
            help=f"settings that depend on the data, one of {' '.join(RECIPES)}; default: that of a named data set, "
            "else generic",
        ),
    ] = None
    factor: Annotated[int | None, arg(metavar="INT")] = None
    """short for --parameterisation.factor"""
    config: Annotated[str | None, arg(metavar="FILE")] = None
    """JSON file of settings such as {"optimiser.lr": 0.01}, as experiments.tune writes them; options on the command
    line take precedence"""
    seed: int = 0
    """seed of everything random"""
    devices: Devices = 0
    deterministic: FlagCreatePairsOff[bool] = False
    """use deterministic GPU operations, so that every run gives the same bits"""

    def validate_options(self) -> None:
        """Raise RequestError for values of the runner's own options that are invalid on any data set."""


Options = TypeVar("Options", bound=Common)


class Request(NamedTuple, Generic[Options]):
    """A parsed command line and its data set."""

    options: Options
    recipe: str
    experiment: Experiment
    data: Dataset


def request(argv: Sequence[str], options: type[Options]) -> Request[Options]:
    """Parse ``METHOD DATASET [options]`` and read the data set.

    Raises RequestError for an invalid request, and SystemExit after ``--help`` (code 0) or an unknown option (code 2).
    """
    parsed, recipe, experiment = parse(argv, options)
    check_numbers(parsed.seed, parsed.devices)
    parsed.validate_options()
    if parsed.deterministic:
        backend.deterministic_operations()
    data = read(parsed.dataset, parsed.side, parsed.subset or ())
    refuse_side(parsed.dataset, parsed.side, data.shape)
    if data.shape != assumed_shape(parsed.dataset, parsed.side):
        parsed, recipe, experiment = parse(argv, options, data.shape)
    return Request(parsed, recipe, experiment, data)


def check_numbers(seed: int, devices: int) -> None:
    """Raise RequestError for values of --seed and --devices that no run can have."""
    if not 0 <= seed < 2**32:
        raise RequestError(f"seed is {seed}: give a number from 0 to {2**32 - 1}")
    if devices < 0:
        raise RequestError(f"devices is {devices}: it must be 0 (one for each core) or more")


def parse(
    argv: Sequence[str], options: type[Options], shape: tuple[int, int, int] | None = None
) -> tuple[Options, str, Experiment]:
    """Return the options, the name of the recipe and the experiment, without reading the data. ``shape`` is (H, W, c)
    of the images; None: the known shape of a named data set, or 32x32x3."""
    on_line, _ = scan(argv, options)
    settings = config.read(on_line.get("config"))
    with config.named(on_line.get("config"), settings, on_line):
        return _parse([*argv, *config.words(settings, on_line)], settings, options, shape)


def _parse(
    argv: Sequence[str], settings: Mapping[str, Any], options: type[Options], shape: tuple[int, int, int] | None
) -> tuple[Options, str, Experiment]:
    """``parse`` a command line that includes the ``settings`` of its --config file."""
    values, _ = scan(argv, options)
    own = {axis: choose(axis, values[axis]) for axis in CHOICES if ":" in values.get(axis, "")}
    values, words = scan(argv, options, own)
    method, dataset = (words + ["acc_dd", "digits"][len(words) :])[:2]
    preset: Spec = lookup("method", method, PRESETS)
    recipe = values.get("recipe", RECIPE_OF.get(dataset, "generic"))
    factor = values.get("factor", values.get("parameterisation.factor"))
    default = resolve(
        method,
        recipe,
        ipc=_integer("ipc", values.get("ipc", str(preset.ipc))),
        shape=shape or assumed_shape(dataset, None if "side" not in values else _integer("side", values["side"])),
        factor=None if factor is None else _integer("factor", factor),
        axes={axis: choose(axis, values[axis], getattr(preset, axis)) for axis in CHOICES if axis in values},
        protocol=values.get("protocol"),
    )
    argv, default = with_nested(argv, values, default)
    config.check(values.get("config", ""), settings, default, {field.name for field in fields(options)})
    names = {axis: choice_name(axis, getattr(default.spec, axis)) for axis in CHOICES}
    try:
        parsed = parser.parsed_over(default, names, options, _expanded(argv), options.command, options.unknown)
    except parser.MissingWords as error:
        several = ", ".join(f"--{name}" for name in sorted(parser.multi_valued(options)) if name in values)
        taken = f" ({several} takes all words up to the next option)" if several else ""
        raise RequestError(
            f"METHOD or DATASET is missing: put both first, as in acc_dd digits{taken}; {error.help} lists the options"
        ) from None
    if words[:2] != [parsed.method, parsed.dataset]:
        raise RequestError("METHOD and DATASET look like values of options: put them first on the command line")
    spec = Spec(**{f.name: getattr(parsed, f.name) for f in fields(Spec)})
    validate(spec)
    validate(parsed.protocol, "protocol.")
    lookup("protocol", parsed.protocol.name, PROTOCOLS)
    if method in BASELINES:
        of_steps = {"outer_steps", *OF_STEPS}
        unused = [f"--{name}" for name in values if name.partition(".")[0].replace("-", "_") in of_steps]
        if unused:
            print_once(f"{method} takes no steps: it ignores {' '.join(unused)}")
        spec = replace(spec, outer_steps=0)
    return parsed, recipe, Experiment(spec, parsed.protocol)


# ------------------------------------------------------------------ stage 1


def scan(
    argv: Sequence[str], runner: type[Any], own: Mapping[str, Any] | None = None
) -> tuple[Mapping[str, str], list[str]]:
    """Return the first value of each option by name, and the words that belong to no option. ``own`` has the choices of
    the user's own classes by axis."""
    flags, several = _flags(runner, own or {}), parser.multi_valued(runner)
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
        # A user's own choice may have flags that are not known yet; a following option is not their value.
        elif name not in flags and word != "-h" and rest and not rest[0].startswith("--"):
            options[name] = rest.pop(0)
            while name in several and rest and not rest[0].startswith("-"):
                rest.pop(0)
    return options, words


def _flags(options: type[Any], own: Mapping[str, Any]) -> set[str]:
    """Return the options that take no value: the flags of the runner and of every choice, ``own`` ones included."""
    hints = get_type_hints(options)
    flags = {"help", "help-all"} | {f.name.replace("_", "-") for f in fields(options) if hints[f.name] is bool}
    for axis, choices in CHOICES.items():
        for choice in (*(make() for make in choices.values()), *([own[axis]] if axis in own else [])):
            switches = [f.name.replace("_", "-") for f in fields(choice) if f.type in (bool, "bool")]
            flags |= {f"{axis}.{prefix}{name}" for name in switches for prefix in ("", "no-")}
    return flags


def _integer(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise RequestError(f"--{name} takes a whole number, not {text!r}") from None


def _expanded(argv: Sequence[str]) -> list[str]:
    """Return ``argv`` with each range after --classes, such as ``0:20``, written out as numbers. Raise RequestError if
    it is empty."""
    words: list[str] = []
    after = False
    for word in argv:
        if word.startswith("--classes="):
            words, word, after = [*words, "--classes"], word.removeprefix("--classes="), True
        first, colon, end = word.partition(":")
        if after and colon and first.isdecimal() and end.isdecimal():
            if int(first) >= int(end):
                raise RequestError(f"--classes {word} names no class: give FIRST:END with END above FIRST")
            words += map(str, range(int(first), int(end)))
        else:
            words.append(word)
        after = word == "--classes" or (after and not word.startswith("--"))
    return words
