"""The options of ``reproduce compare``, and the setup of each method in the comparison."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from distill_jax import sweep
from distill_jax.cli.process.launch import option
from distill_jax.cli.request import arguments
from distill_jax.cli.session.resume import Resumable
from distill_jax.cli.session.setup import Setup, set_up
from distill_jax.cli.tables.curve import Budget
from distill_jax.evaluation import PROTOCOLS
from distill_jax.methods import PRESETS
from distill_jax.types import RequestError, require_at_least

FAMILY = ("idc", "acc_dd", "dream", "dream_acc_dd", "dsa", "dsa --models early-stage --perturb directions")


@dataclass(frozen=True)
class Compare(Resumable):
    """Run methods on a data set under one budget and compare their accuracies.

    Options of experiments.distill for all methods follow after a separate --, as in -- --net.width 32.
    """

    target: Annotated[Positional[Literal["compare"]], arg(metavar="compare")]
    """the word compare"""
    dataset: Annotated[str, arg(metavar="DATASET")]
    """digits, npz:PATH, folder:PATH, hf:PATH, or a name of TensorFlow Datasets"""
    subset: arguments.Subset = None
    methods: Annotated[tuple[str, ...], arg(metavar="METHOD [METHOD ...]")] = FAMILY
    """methods to compare. Quotes add options: "dsa --models early-stage". A prefix with a colon names the row of the
    table: "mine: idc --net.width 64". A method with its own --ipc takes part at that size only. all: every method and
    baseline"""
    ipc: tuple[int, ...] = (1,)
    """stored images per class; several values make several tables"""
    seconds: float = 0.0
    """budget in seconds of pretraining and distillation, without compilation"""
    steps: int = 0
    """budget in inner steps; without --seconds and --steps, each method takes its own number of steps"""
    points: int = 1
    """number of sets to score, at equal shares of the budget; from 2 on there is a picture"""
    seeds: int = 1
    """number of runs of each method, with the seeds 0, 1, ..."""
    repeats: int = 5
    """R: networks trained from scratch on each set; random images are drawn at least 20 times"""
    protocol: Annotated[str, arg(metavar="|".join(PROTOCOLS))] = "idc"
    """evaluation protocol for all methods"""
    held_out: FlagCreatePairsOff[bool] = False
    """score on a tenth of the training data, withheld from everything else, instead of on the test set"""
    devices: arguments.Devices = 0

    def validate_options(self) -> None:
        super().validate_options()
        require_at_least(1, self, "seeds", "repeats")
        sweep.combinations({"ipc": self.ipc})  # refuses a repeated value
        _ = self.budget  # raises RequestError if it is invalid

    @property
    def budget(self) -> Budget:
        return Budget(self.seconds, self.steps, self.points)

    @property
    def lines(self) -> list[tuple[str, int, str]]:
        """Name, images per class, and method with options of each entrant.

        Raise RequestError if two entrants of one size have the same name, or a line cannot be parsed.
        """
        named = [line.rpartition(": ") for line in (PRESETS if self.methods == ("all",) else self.methods)]
        entrants = [
            (name or line, ipc, line)
            for ipc in self.ipc
            for name, _, line in named
            if option(_words(line), "--ipc") in (None, str(ipc))
        ]
        for (name, ipc), count in Counter(line[:2] for line in entrants).items():
            if count > 1:
                raise RequestError(
                    f"{count} methods are called {name!r} at ipc {ipc}: give them names, as in 'mine: idc'"
                )
        left_out = {line for _, _, line in named} - {line for _, _, line in entrants}
        if left_out:
            sizes = " ".join(map(str, self.ipc))
            raise RequestError(f"--ipc {sizes} does not include the --ipc of {min(left_out)!r}: add it")
        return entrants


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise RequestError(
            f"--methods {line!r} cannot be parsed ({error}): close its quotes, and name a method"
        ) from error


@dataclass(frozen=True)
class Entrant(arguments.Common):
    """The options of a method in a comparison."""

    command: ClassVar[str] = "distill"
    unknown: ClassVar[str] = (
        "a method of a comparison has options of METHOD and its protocol, such as --net.width or --protocol.epochs, "
        "and --side --recipe --factor --config --deterministic"
    )


def entrant(line: str, ipc: int, options: Compare, shared: list[str]) -> Setup:
    """Set up the method in ``line``. Raise RequestError if the method or an option does not exist."""
    if not (words := _words(line)):
        raise RequestError("--methods has an empty name: name a method")
    method, *own = words
    only = options.subset or ()
    words = [method, options.dataset, *(["--subset", *only] if only else []), "--ipc", str(ipc)]
    words += ["--protocol", options.protocol, *shared, *own]
    request = arguments.request(words, Entrant)
    if (request.options.subset or ()) != only:
        raise RequestError("all methods are compared on the same classes: give --subset next to --dataset")
    if request.experiment.protocol.name != options.protocol:
        raise RequestError("all methods are compared under the same protocol: give --protocol next to --dataset")
    if request.options.seed:
        raise RequestError("all methods are compared with the same seeds, 0, 1, ...: leave out --seed")
    return set_up(request, eval_every=int(options.held_out))
