"""What ``reproduce TABLE`` is asked for: its options, and the commands that they come to."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from distill_jax.cli import arguments
from distill_jax.cli.distill import Distill
from distill_jax.cli.resume import Resumable
from distill_jax.cli.table_page import Gain, Outcome
from distill_jax.published.tables import TABLES, Acceleration, Cell, Table, table
from distill_jax.recipes import RECIPE_OF
from distill_jax.spec import validate
from distill_jax.types import RequestError, lookup, require_at_least


@dataclass(frozen=True)
class Reproduce(Resumable):
    """Run the cells of a published table, and set what they reach beside the published figures.

    "compare" in place of TABLE compares methods on any data: see experiments.reproduce compare --help.
    Options of experiments.distill that all cells take follow after a lone --, as in -- --net.width 32.
    """

    table: Annotated[
        Positional[str], arg(metavar="TABLE", help=f"{' '.join(TABLES)}, or a file of your own that ends in .toml")
    ]
    budget: float = 1.0
    """scales the outer steps of every cell; pretraining and evaluation stay as they are"""
    data: Annotated[tuple[str, ...], arg(metavar="NAME=DATASET")] = ()
    """where a data set of the table comes from, as in cifar10=npz:cifar10.npz; its recipe stays the table's"""
    cells: Annotated[tuple[str, ...], arg(metavar="PART")] = ()
    """only cells whose names contain one of these, as acc_dd, cifar10, or ipc1/ (which is not ipc10/); default: all"""
    seeds: int = 3
    """runs of each cell, with the seeds 0, 1, ..."""
    repeats: int = 5
    """R: networks trained from scratch on each set"""
    devices: arguments.Devices = 0


@dataclass(frozen=True)
class Plan:
    """A request, resolved as far as that goes without data."""

    options: Reproduce
    table: Table
    shared: list[str]
    """options of all cells, from the user"""
    sources: Mapping[str, str]
    """data set of the table -> where the user has it"""

    def meant(self, key: str) -> bool:
        return not self.options.cells or any(part in f"{key}/" for part in self.options.cells)

    def outcomes(self) -> dict[str, Outcome]:
        """key -> each cell that is meant, with its command and nothing known yet."""
        return {cell.key: self._resolved(cell) for cell in self.table.cells if self.meant(cell.key)}

    def gains(self) -> dict[str, Gain]:
        """key -> each acceleration that is meant, nothing known yet."""
        return {of.key: Gain(of) for of in self.table.accelerations if self.meant(of.key)}

    def words(self, of: Acceleration) -> list[str]:
        """What both methods are run with: DATASET and options."""
        return [self._source(of.data), "--recipe", of.recipe, *shlex.split(of.options), *self.shared]

    def _source(self, name: str, whitened: bool = False) -> str:
        return "zca:" * whitened + self.sources.get(name, name)

    def _resolved(self, cell: Cell) -> Outcome:
        source = self._source(cell.dataset, cell.whitened)
        recipe = [] if RECIPE_OF.get(source) == cell.recipe else ["--recipe", cell.recipe]
        words = [cell.method, source, *recipe, "--ipc", str(cell.ipc), *cell.options, *self.shared]
        _, _, experiment = arguments.parse(words, Distill)
        validate(experiment.spec)
        validate(experiment.protocol, "protocol.")
        steps = experiment.spec.outer_steps
        if steps and self.options.budget != 1:
            words += ["--outer-steps", str(max(1, round(self.options.budget * steps)))]
        words += ["--repeats", str(self.options.repeats), "--baselines"]
        return Outcome(cell, words, f"{experiment.protocol.name}, {experiment.protocol.epochs} epochs")


def planned(options: Reproduce, shared: list[str]) -> Plan:
    """Raises RequestError for a table, a data set or a cell that does not exist, and for numbers that make no sense."""
    if not 0 < options.budget < math.inf:
        raise RequestError(f"budget is {options.budget:g}: give a number above 0")
    require_at_least(1, options, "seeds", "repeats")
    known = table(options.table)
    names = {cell.dataset: cell.dataset for cell in known.cells}
    pairs = [pair.partition("=") for pair in options.data]
    for name, _, source in pairs:
        lookup(f"data set of {known.name}", name, names)
        if not source:
            raise RequestError(f"--data {name} does not say where it is: write --data {name}=npz:PATH")
    plan = Plan(options, known, shared, {name: source for name, _, source in pairs})
    if not any(plan.meant(part.key) for part in (*known.cells, *known.accelerations)):
        keys = ", ".join(f"{cell.key}/" for cell in known.cells[:3])
        raise RequestError(f"--cells {' '.join(options.cells)} is part of no cell of {known.name}: try {keys}, ...")
    return plan
