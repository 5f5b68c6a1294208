"""What a comparison is asked for: the options, and the methods that take part, each set up."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from distill_jax.cli import arguments
from distill_jax.cli.comparison import Budget
from distill_jax.cli.launch import option
from distill_jax.cli.resume import Resumable
from distill_jax.cli.setup import Setup, set_up
from distill_jax.evaluation import PROTOCOLS
from distill_jax.methods import PRESETS
from distill_jax.types import RequestError

FAMILY = ("idc", "acc_dd", "dream", "dream_acc_dd", "dsa", "dsa --models early-stage --perturb directions")


@dataclass(frozen=True)
class Compare(Resumable):
    """Run methods on a data set under one budget and set their accuracies side by side.

    Options of experiments.distill that all methods take follow after a lone --, as in -- --net.width 32.
    """

    target: Annotated[Positional[Literal["compare"]], arg(metavar="compare")]
    """what to make"""
    dataset: Annotated[str, arg(metavar="DATASET")]
    """digits, npz:PATH, folder:PATH, hf:PATH, or a name of TensorFlow Datasets"""
    subset: arguments.Subset = None
    methods: Annotated[tuple[str, ...], arg(metavar="METHOD [METHOD ...]")] = FAMILY
    """methods, each with options of its own if quoted: "dsa --models early-stage", and with a name for the table if
    one stands before a colon: "mine: idc --net.width 64"; one with an --ipc of its own takes part at that size alone;
    all: every method and baseline"""
    ipc: tuple[int, ...] = (1,)
    """images stored per class; several make several tables"""
    seconds: float = 0.0
    """budget: seconds of pretraining and distillation, compilation not counted"""
    steps: int = 0
    """budget: inner steps; without --seconds and --steps each method takes its own number"""
    points: int = 1
    """sets scored along the way, at equal shares of the budget; from 2 on there is a picture"""
    seeds: int = 1
    """runs of each method, with the seeds 0, 1, ..."""
    repeats: int = 5
    """R: networks trained from scratch on each set; random images are drawn 20 times at least"""
    protocol: Annotated[str, arg(metavar="|".join(PROTOCOLS))] = "idc"
    """how the sets of all methods are scored, whatever their papers do"""
    held_out: FlagCreatePairsOff[bool] = False
    """score on a tenth of the training data, withheld from all else, and not on the test set: to choose by"""
    devices: arguments.Devices = 0

    @property
    def budget(self) -> Budget:
        return Budget(self.seconds, self.steps, self.points)

    @property
    def lines(self) -> list[tuple[str, int, str]]:
        """What each is called, its images per class, and the method with its options.

        Raises RequestError where two of one size have the same name, or a line cannot be read.
        """
        named = [line.rpartition(": ") for line in (PRESETS if self.methods == ("all",) else self.methods)]
        found = [
            (name or line, ipc, line)
            for ipc in self.ipc
            for name, _, line in named
            if option(_words(line), "--ipc") in (None, str(ipc))
        ]
        for (name, ipc), count in Counter(line[:2] for line in found).items():
            if count > 1:
                raise RequestError(
                    f"{count} methods are called {name!r} at ipc {ipc}: give them names, as in 'mine: idc'"
                )
        left_out = {line for _, _, line in named} - {line for _, _, line in found}
        if left_out:
            raise RequestError(f"no --ipc is that of {min(left_out)!r}: add it to --ipc {' '.join(map(str, self.ipc))}")
        return found


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise RequestError(
            f"--methods {line!r} cannot be read ({error}): close its quotes, and name a method"
        ) from error


@dataclass(frozen=True)
class Entrant(arguments.Common):
    """A method that takes part."""

    command: ClassVar[str] = "distill"


def entrant(line: str, ipc: int, options: Compare, shared: list[str]) -> Setup:
    """Raises RequestError for a method or an option that does not exist, before any work."""
    if not (words := _words(line)):
        raise RequestError("--methods has an empty one: name a method")
    method, *own = words
    only = arguments.chosen_classes(options.subset)
    words = [method, options.dataset, *(["--subset", *only] if only else []), "--ipc", str(ipc)]
    words += ["--protocol", options.protocol, *shared, *own]
    request = arguments.request(words, Entrant)
    if (request.options.subset or ()) != only:
        raise RequestError("all methods are compared on the same classes: give --subset beside --dataset")
    return set_up(request, eval_every=int(options.held_out))
