"""The papers' tables, one TOML file each: which method on which data reaches what, and how to run it here.

    title = "..."
    note = "..."                              # what is true of all cells

    [notes]
    ncfm = "..."                              # what keeps the figures of the row "ncfm" from being comparable

    [[data]]
    name = "cifar10"                          # as ``data.load`` takes it
    recipe = "cifar10"                        # default: the one that the name implies
    options = "--net.width 32"                # of every row; default: none
    rows = [
        { method = "dc", published = { 1 = 28.3, 10 = 44.9 } },                        # ipc = accuracy in percent
        { method = "acc_dd --outer-steps 200", name = "Ours10", ipc = [1] },           # no figure at this ipc
        { method = "mtt", published = { 1 = 46.3 }, zca = [1] },                       # whitened at these ipc; or true
    ]

    [[acceleration]]                          # how much earlier ``fast`` reaches an accuracy than ``slow``
    data = "digits"
    slow = "idc"
    fast = "acc_dd"
    target = 90.0                             # percent
    steps = 500                               # inner steps of each, scored ``points`` times
    points = 5                                # further fields: see Acceleration

A figure is of its own paper's protocol, under which the cell is scored as well.
"""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from distill_jax.recipes import RECIPE_OF
from distill_jax.types import RequestError, lookup

TABLES = ("small", "cifar10", "cifar100", "mnist_family", "tiny", "imagenet10")
"""the files of this package"""


@dataclass(frozen=True)
class Cell:
    """One method on one data set with one number of images."""

    method: str
    options: tuple[str, ...]
    """as ``experiments.distill`` takes them after METHOD and DATASET"""
    name: str
    """of its row"""
    dataset: str
    """where images come from, unless the user has them elsewhere"""
    whitened: bool
    recipe: str
    ipc: int
    published: float | None = None
    """percent; None where no paper says"""
    note: str = ""
    """what keeps the figure from being comparable"""

    @property
    def key(self) -> str:
        """A name for a folder of its own, which no other cell of the table has."""
        words = [*self.name.replace(",", " ").split(), self.dataset, f"ipc{self.ipc}"]
        return "-".join("".join(c if c.isalnum() or c in "._" else "_" for c in word) for word in words)


@dataclass(frozen=True)
class Acceleration:
    """How much earlier one method reaches an accuracy than another: a comparison with points along the way."""

    data: str
    slow: str
    """METHOD [options]"""
    fast: str
    target: float
    """percent"""
    steps: int
    """inner steps of each"""
    points: int
    """sets that are scored along the way"""
    recipe: str
    ipc: int = 1
    repeats: int = 2
    """networks trained on each set: the seeds give the interval"""
    options: str = ""
    """of both"""

    @property
    def names(self) -> tuple[str, str]:
        """What the two are called."""
        return self.slow.split()[0], self.fast.split()[0]

    @property
    def key(self) -> str:
        """A name for a folder of its own."""
        return f"acceleration-{self.data}-ipc{self.ipc}"


@dataclass(frozen=True)
class Table:
    """A published table, or one of the user's own."""

    name: str
    title: str
    note: str
    cells: tuple[Cell, ...]
    accelerations: tuple[Acceleration, ...] = ()


def table(name: str) -> Table:
    """The table ``name``, one of TABLES or the path of a file that ends in ``.toml``.

    Raises RequestError where there is no such table, or where the file does not describe one.
    """
    if name.endswith(".toml"):
        path = Path(name).expanduser()
        try:
            text, stem = path.read_text(), path.stem
        except OSError as error:
            raise RequestError(f"cannot read the table {name} ({error.strerror}): check the path") from error
    else:
        stem = lookup("table", name, {known: known for known in TABLES})
        text = resources.files(__name__).joinpath(f"{stem}.toml").read_text()
    try:
        content = tomllib.loads(text)
        notes = content.get("notes", {})
        cells = tuple(cell for of in content.get("data", ()) for row in of["rows"] for cell in _cells(of, row, notes))
        recipes = {cell.dataset: cell.recipe for cell in cells}
        faster = tuple(Acceleration(**{"recipe": recipes[a["data"]], **a}) for a in content.get("acceleration", ()))
        made = Table(stem, content["title"], content.get("note", "").strip(), cells, faster)
    except KeyError as error:
        raise RequestError(f"the table {name} lacks {error.args[0]}: see a table of distill_jax/published") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise RequestError(
            f"the table {name} cannot be read ({error}): see a table of distill_jax/published"
        ) from error
    keys = [cell.key for cell in cells]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice or not cells:
        what = f"has the cell {twice[0]} twice: give one of its rows a name" if twice else "has no rows"
        raise RequestError(f"the table {name} {what}")
    return made


def _cells(of: Mapping[str, Any], row: Mapping[str, Any], notes: Mapping[str, str]) -> Iterator[Cell]:
    """The cells of one row, in the order of their ipc."""
    unknown = ({*of} - {"name", "recipe", "options", "rows"}) | ({*row} - {"method", "name", "published", "ipc", "zca"})
    if unknown:
        raise ValueError(f"it has {min(unknown)}, which means nothing")
    dataset, published = of["name"], {int(ipc): float(figure) for ipc, figure in row.get("published", {}).items()}
    method, *own = shlex.split(row["method"])
    options = (*shlex.split(of.get("options", "")), *own)
    name, recipe, zca = row.get("name", method), of.get("recipe", RECIPE_OF.get(dataset, "generic")), row.get("zca", ())
    for ipc in sorted({*published, *row.get("ipc", ())}):
        whitened = zca is True or (zca is not False and ipc in zca)
        note = " ".join(notes.get(name, "").split())
        yield Cell(method, options, name, dataset, whitened, recipe, ipc, published.get(ipc), note)
