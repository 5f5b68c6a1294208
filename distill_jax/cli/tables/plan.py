"""The options of ``reproduce TABLE``, and the commands of its cells."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from distill_jax.cli.distill import Distill
from distill_jax.cli.request import arguments
from distill_jax.cli.request.parser import refuse_of_command
from distill_jax.cli.session.resume import Resumable
from distill_jax.cli.tables.page import Gain, Outcome
from distill_jax.published.tables import TABLES, Acceleration, Cell, Table, table
from distill_jax.recipes import RECIPE_OF
from distill_jax.types import RequestError, lookup, require_at_least


@dataclass(frozen=True)
class Reproduce(Resumable):
    """Run the cells of a published table and compare their accuracies with the published figures.

    "compare" instead of TABLE compares methods on any data: see experiments.reproduce compare --help.
    Options of experiments.distill for all cells follow after a separate --, as in -- --net.width 32.
    """

    table: Annotated[
        Positional[str], arg(metavar="TABLE", help=f"{' '.join(TABLES)}, or a file of your own that ends in .toml")
    ]
    budget: float = 1.0
    """factor on the outer steps of every cell; pretraining and evaluation do not change"""
    data: Annotated[tuple[str, ...], arg(metavar="NAME=DATASET")] = ()
    """source of a data set of the table, as in cifar10=npz:cifar10.npz; its recipe does not change"""
    cells: Annotated[tuple[str, ...], arg(metavar="PART")] = ()
    """run only cells whose names contain one of these: acc_dd, cifar10, or ipc1/ (which excludes ipc10/); default:
    all"""
    seeds: int = 3
    """number of runs of each cell, with the seeds 0, 1, ..."""
    repeats: int = 5
    """R: networks trained from scratch on each set"""
    devices: arguments.Devices = 0

    def validate_options(self) -> None:
        super().validate_options()
        if not 0 < self.budget < math.inf:
            raise RequestError(f"budget is {self.budget:g}: give a number above 0")
        require_at_least(1, self, "seeds", "repeats")


@dataclass(frozen=True)
class Plan:
    """A request, resolved as far as possible without data."""

    options: Reproduce
    table: Table
    shared: list[str]
    """the user's options for all cells"""
    sources: Mapping[str, str]
    """data set of the table -> the user's source of it"""

    def includes(self, key: str) -> bool:
        return not self.options.cells or any(part in f"{key}/" for part in self.options.cells)

    def outcomes(self) -> dict[str, Outcome]:
        """Return an outcome without runs for each included cell, by key."""
        return {cell.key: self._resolved(cell) for cell in self.table.cells if self.includes(cell.key)}

    def gains(self) -> dict[str, Gain]:
        """Return an outcome without runs for each included acceleration, by key."""
        return {of.key: Gain(of) for of in self.table.accelerations if self.includes(of.key)}

    def words(self, of: Acceleration) -> list[str]:
        """Return DATASET and the options of both methods."""
        return [self._source(of.data), "--recipe", of.recipe, *shlex.split(of.options), *self.shared]

    def _source(self, name: str, whitened: bool = False) -> str:
        return "zca:" * whitened + self.sources.get(name, name)

    def _resolved(self, cell: Cell) -> Outcome:
        source = self._source(cell.dataset, cell.whitened)
        recipe = [] if RECIPE_OF.get(source) == cell.recipe else ["--recipe", cell.recipe]
        refuse_of_command(cell.options, f"cannot be an option of the row {cell.name}: the table sets it for each run")
        words = [cell.method, source, *recipe, "--ipc", str(cell.ipc), *cell.options, *self.shared]
        _, _, experiment = arguments.parse(words, Distill)
        steps = experiment.spec.outer_steps
        if steps and self.options.budget != 1:
            words += ["--outer-steps", str(max(1, round(self.options.budget * steps)))]
        words += ["--repeats", str(self.options.repeats), "--baselines"]
        return Outcome(cell, words, f"{experiment.protocol.name}, {experiment.protocol.epochs} epochs")


def planned(options: Reproduce, shared: list[str]) -> Plan:
    """Resolve the request. Raise RequestError for an unknown table, data set or cell."""
    known = table(options.table)
    names = {cell.dataset: cell.dataset for cell in known.cells}
    pairs = [pair.partition("=") for pair in options.data]
    for name, _, source in pairs:
        lookup(f"data set of {known.name}", name, names)
        if not source:
            raise RequestError(f"--data {name} has no source: write --data {name}=npz:PATH")
    plan = Plan(options, known, shared, {name: source for name, _, source in pairs})
    if not any(plan.includes(part.key) for part in (*known.cells, *known.accelerations)):
        keys = ", ".join(f"{cell.key}/" for cell in known.cells[:3])
        raise RequestError(f"no cell of {known.name} contains {' '.join(options.cells)}: try --cells {keys}, ...")
    return plan
