"""The parser of every command: tyro, with one-line error messages."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import field, fields, is_dataclass, make_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tyro
from tyro.conf import Suppress, arg
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo

from distill_jax.evaluation import PROTOCOLS, Protocol
from distill_jax.recipes import Experiment
from distill_jax.spec import CHOICES, Spec
from distill_jax.types import RequestError

Options = TypeVar("Options")

SHORT_HELP = {"-h", "--help"}
OF_COMMAND = ("--ipc", "--seed", "--repeats", "--baselines", "--workdir", "--resume", "--overwrite")
"""options of ``distill`` that commands with many runs set themselves"""
MAY_BE_EMPTY = {"baselines", "mean", "std"}
"""options of several values that mean something without a value: no baselines, the statistics of the images"""


def invocation(command: str) -> list[str]:
    """Return the words that start ``command`` here: the installed program, or a module of the clone."""
    if Path(sys.argv[0]).name == "distill-jax":
        return ["distill-jax", *command.split()]
    return ["python", "-m", *f"experiments.{command}".split()]


class MissingWords(RequestError):
    """The command line lacks a required argument."""

    def __init__(self, message: str, help: str) -> None:
        super().__init__(message)
        self.help = help
        """the command that prints the help"""


def parsed(
    options: type[Options],
    argv: Sequence[str],
    command: str,
    description: str | None = None,
    config: tuple[Any, ...] = (),
    registry: ConstructorRegistry | None = None,
    unknown: str = "",
) -> Options:
    """Parse ``argv`` into the ``options`` of ``command``. ``description`` heads the help; default: the docstring.
    ``unknown`` is advice about options that the command does not have.

    Raise RequestError if ``argv`` is invalid, and SystemExit (code 0) after ``--help``.
    """
    prog = " ".join(invocation(command))
    about = description or inspect.getdoc(options)
    words = ["--help" if word == "--help-all" else word for word in argv]
    valued = {f"--{name}" for name in multi_valued(options) - MAY_BE_EMPTY}
    for word, following in pairwise([*words, "--"]):
        if word.replace("_", "-") in valued and following[:2] == "--":  # for example, a shell variable is unset
            raise RequestError(f"{word} has no value: give at least one, or leave the option out")
    if SHORT_HELP & set(words):
        words = ["--help"]  # the help lacks positional arguments that tyro has already read
        options = _without_none(options)
    else:
        config = (*config, tyro.conf.HelptextFromCommentsOff)  # finding field docstrings takes a fifth of the time
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(options, args=words, prog=prog, description=about, config=config, registry=registry)
    except SystemExit as error:
        if error.code != 2:
            raise
        said, help = _line(box.getvalue()), f"{prog} --help"
        said += "" if said.endswith("?") else ";"
        advice = f" {unknown};" if unknown and said.startswith("Unrecognized") else ""
        message = f"{said}{advice} {help} lists the options"
        raise (MissingWords(message, help) if said.startswith("Missing from") else RequestError(message)) from None
    finally:
        if sys.exc_info()[0] is None:
            sys.stderr.write(box.getvalue())  # warnings


def multi_valued(options: type[Any]) -> set[str]:
    """Return the options that take all words up to the next option."""
    hints = get_type_hints(options)
    types = {f.name: (hints[f.name], *get_args(hints[f.name])) for f in fields(options)}
    return {name.replace("_", "-") for name, ts in types.items() if any(get_origin(t) is tuple for t in ts)}


def parsed_with_shared(options: type[Options], argv: Sequence[str], command: str) -> tuple[Options, list[str]]:
    """Parse the words before ``--`` as ``parsed``. Return the options, and the words after it: options of
    ``experiments.distill`` for all runs of the command."""
    cut = argv.index("--") if "--" in argv else len(argv)
    advice = "options of experiments.distill for all runs follow after --"
    shared = list(argv[cut + 1 :])
    refuse_of_command(shared, f"cannot follow after --: the {command} command sets it for each run")
    return parsed(options, argv[:cut], command, unknown=advice), shared


def refuse_of_command(words: Sequence[str], why: str) -> None:
    """Raise RequestError, ending with ``why``, if ``words`` have an option that commands with many runs set."""
    for word in words:
        if (name := word.partition("=")[0].replace("_", "-")) in OF_COMMAND:
            raise RequestError(f"{name} {why}")


def _without_none(options: type[Options]) -> type[Options]:
    """Return ``options`` for a help that does not say "(default: None)": texts say in words what no value means."""
    hints, unset = get_type_hints(options, include_extras=True), arg(help_behavior_hint="")
    absent = [
        (of.name, Annotated[hints[of.name], unset], field(default=None, kw_only=of.kw_only))
        for of in fields(options)  # type: ignore[arg-type]
        if of.default is None
    ]
    return make_dataclass(options.__name__, absent, bases=(options,), frozen=True)


def _line(box: str) -> str:
    """Return the message of a box that tyro printed: its first paragraph and the options that it suggests."""
    rows = [row.strip("│| ") for row in box.splitlines()[1:]]  # the first one is the title
    text = "\n".join(row if re.search(r"\w", row) else "" for row in rows)
    said, *more = [part for part in text.replace(", 'None')", ")").split("\n\n") if part.strip()]
    near = re.findall(r"^(--[\w.-]+)", "\n".join(part for part in more if part.startswith("Perhaps")), re.MULTILINE)
    return " ".join(said.split()).rstrip(".") + (f": did you mean {' or '.join(dict.fromkeys(near))}?" if near else "")


# ------------------------------------------------------------------ the fields of an experiment as options

SHORT = ("ipc", "outer_steps", "inner_steps")
"""fields of Spec that ``--help`` shows besides the names of the choices; ``--help-all`` shows all"""

EVERY_OPTION = "These are the common options. --help-all shows all options, including the fields of METHOD's choices."

_registry = ConstructorRegistry()

CONTRACTS = {get_type_hints(Spec)[axis] for axis in CHOICES}


@_registry.struct_rule
def _by_value(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Parse a field annotated with an axis' contract as the class of its default."""
    if is_dataclass(info.default) and info.type in CONTRACTS:
        spec = ConstructorRegistry.get_struct_spec(StructTypeInfo.make(type(info.default), info.default, False))
        return spec if isinstance(spec, StructConstructorSpec) else None
    return None


def parsed_over(
    default: Experiment,
    names: Mapping[str, str],
    options: type[Options],
    argv: Sequence[str],
    command: str = "",
    unknown: str = "",
) -> Any:
    """Parse the ``options`` of a runner together with all fields of Spec and, as ``protocol.NAME``, of the protocol.

    The default values come from ``default``. ``names`` has the name of the choice on each axis. ``command``,
    ``unknown`` and errors are those of ``parsed``.
    """
    short = bool(SHORT_HELP & set(argv))
    about = inspect.getdoc(options)
    return parsed(
        _options_over(default, names, options, short),
        argv,
        command or options.__name__.lower(),
        f"{about}\n\n{EVERY_OPTION}" if short else about,
        registry=_registry,
        config=(tyro.conf.AvoidSubcommands,),
        unknown=unknown,
    )


def _about(axis: str) -> str:
    more = "; --models, --update, --objective and --protocol take one of their own, as in --update.augment none"
    return f"choice on the axis {axis}" + more * (axis == "augment")


def _options_over(default: Experiment, names: Mapping[str, str], options: type[Any], short: bool) -> type[Any]:
    """Return the dataclass to parse into. If ``short``, its help shows only the common options.

    It inherits from Spec and the options, so that tyro finds the docstrings of the fields for its help.
    """
    hints = get_type_hints(Spec)
    on_top: list[tuple[str, Any, Any]] = []
    for of in fields(Spec):
        name, value = of.name, getattr(default.spec, of.name)
        annotation = type(value) if name in CHOICES else hints[name]
        on_top.append((name, Suppress[annotation] if short and name not in SHORT else annotation, value))
        if name in CHOICES:
            which = arg(name=name, metavar=f"{'|'.join(CHOICES[name])}|MODULE:CLASS", help=_about(name))
            on_top.append((f"choice_of_{name}", Annotated[str, which], names[name]))
    which = arg(name="protocol", metavar="|".join(PROTOCOLS), help="evaluation protocol; default: the paper's")
    on_top.append(("name_of_protocol", Annotated[str, which], default.protocol.name))
    below = [("protocol", Suppress[Protocol] if short else Protocol, default.protocol)]
    return make_dataclass("Options", [*on_top, *below], bases=(Spec, options), frozen=True)
