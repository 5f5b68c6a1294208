"""The papers' tables, one TOML file each: published accuracies and the commands that reproduce them.

    title = "..."
    note = "..."                              # a remark on all cells

    [notes]
    ncfm = "..."                              # why the figures of the row "ncfm" are not comparable

    [[data]]
    name = "cifar10"                          # as ``data.load`` takes it
    recipe = "cifar10"                        # default: the recipe that the name implies
    options = "--net.width 32"                # for every row; default: none
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

A figure follows its own paper's protocol, which also scores the cell here.
"""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from distill_jax.recipes import RECIPE_OF
from distill_jax.types import RequestError, lookup

TABLES = ("small", "cifar10", "cifar100", "mnist_family", "tiny", "imagenet10")
"""names of the table files of this package"""


@dataclass(frozen=True)
class Cell:
    """One method on one data set with one number of images."""

    method: str
    options: tuple[str, ...]
    """options of ``experiments.distill``, after METHOD and DATASET"""
    name: str
    """name of the row"""
    dataset: str
    """default source of the images"""
    whitened: bool
    recipe: str
    ipc: int
    published: float | None = None
    """percent; None if no paper reports it"""
    note: str = ""
    """why the figure is not comparable, if it is not"""

    def __post_init__(self) -> None:
        _check_types(self)

    @property
    def key(self) -> str:
        """Return a folder name that is unique within the table."""
        words = [*self.name.replace(",", " ").split(), self.dataset, f"ipc{self.ipc}"]
        return _folder(words)


@dataclass(frozen=True)
class Acceleration:
    """A comparison of two methods along the way: how much earlier one reaches an accuracy than the other."""

    data: str
    slow: str
    """METHOD [options] of the slower method; a prefix with a colon names it, as in "wide: idc --net.width 64\""""
    fast: str
    target: float
    """percent"""
    steps: int
    """number of inner steps of each method"""
    points: int
    """number of sets that are scored along the way"""
    recipe: str
    ipc: int = 1
    repeats: int = 2
    """number of networks trained on each set; the seeds give the confidence interval"""
    options: str = ""
    """options of both methods"""

    def __post_init__(self) -> None:
        _check_types(self)
        if not all(words for _, words in self.methods) or self.names[0] == self.names[1]:
            raise ValueError("slow and fast need a method each, of different names, as in slow = 'short: idc'")

    @property
    def methods(self) -> list[tuple[str, list[str]]]:
        """Return the name and the words METHOD [options] of the slow and of the fast method."""
        parts = [line.rpartition(": ") for line in (self.slow, self.fast)]
        return [(name or line.partition(" ")[0], shlex.split(line)) for name, _, line in parts]

    @property
    def names(self) -> tuple[str, str]:
        """Return the names of the two methods."""
        (slow, _), (fast, _) = self.methods
        return slow, fast

    @property
    def key(self) -> str:
        """Return a folder name for this comparison."""
        return _folder(["acceleration", self.data, f"ipc{self.ipc}"])


@dataclass(frozen=True)
class Table:
    """A published table, or a table of the user."""

    name: str
    title: str
    note: str
    cells: tuple[Cell, ...]
    accelerations: tuple[Acceleration, ...] = ()


def table(name: str) -> Table:
    """Return the table ``name``, one of TABLES or the path of a file that ends in ``.toml``.

    Raise RequestError if the table does not exist or the file does not describe one.
    """
    if name.endswith(".toml"):
        path = Path(name).expanduser()
        try:
            text, stem = path.read_text(encoding="utf-8"), path.stem
        except OSError as error:
            raise RequestError(f"cannot read the table {name} ({error.strerror}): check the path") from error
        except UnicodeDecodeError as error:
            raise RequestError(f"cannot read the table {name} ({error.reason}): save it as UTF-8") from error
    else:
        stem = lookup("table", name, {known: known for known in TABLES})
        text = resources.files(__name__).joinpath(f"{stem}.toml").read_text(encoding="utf-8")
    try:
        content = tomllib.loads(text)
        notes = content.get("notes", {})
        data = content.get("data", ())
        cells = tuple(cell for entry in data for row in entry["rows"] for cell in _cells(entry, row, notes))
        recipes = {cell.dataset: cell.recipe for cell in cells}
        comparisons = content.get("acceleration", ())
        faster = tuple(Acceleration(**{"recipe": recipes[entry["data"]], **entry}) for entry in comparisons)
        loaded = Table(stem, content["title"], content.get("note", "").strip(), cells, faster)
    except KeyError as error:
        raise RequestError(f"the table {name} lacks {error.args[0]}: see distill_jax/published/tables") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise RequestError(f"the table {name} cannot be read ({error}): see distill_jax/published/tables") from error
    keys = [part.key for part in (*cells, *faster)]
    repeated = [key for key in keys if keys.count(key) > 1]
    if repeated or not cells:
        mend = "give one of its rows a name, or put one acceleration into another table"
        what = f"has the cell {repeated[0]} twice: {mend}" if repeated else "has no rows"
        raise RequestError(f"the table {name} {what}")
    return loaded


def _cells(entry: Mapping[str, Any], row: Mapping[str, Any], notes: Mapping[str, str]) -> Iterator[Cell]:
    """Yield the cells of one row, in the order of their ipc."""
    unknown = {*entry} - {"name", "recipe", "options", "rows"}
    unknown |= {*row} - {"method", "name", "published", "ipc", "zca"}
    if unknown:
        raise ValueError(f"it has the unknown key {min(unknown)}")
    dataset, published = entry["name"], {int(ipc): float(figure) for ipc, figure in row.get("published", {}).items()}
    method, *own_options = shlex.split(row["method"])
    options = (*shlex.split(entry.get("options", "")), *own_options)
    recipe = entry.get("recipe", RECIPE_OF.get(dataset, "generic"))
    name, zca = row.get("name", method), row.get("zca", ())
    sizes = sorted({*published, *row.get("ipc", ())})
    if not sizes:
        raise ValueError(f"the row {name} has no number of images: give it ipc = [1] or published = {{ 1 = 80.0 }}")
    for ipc in sizes:
        whitened = zca is True or (zca is not False and ipc in zca)
        note = " ".join(notes.get(name, "").split())
        yield Cell(method, options, name, dataset, whitened, recipe, ipc, published.get(ipc), note)


def _folder(words: Iterable[str]) -> str:
    return "-".join("".join(c if c.isalnum() or c in "._" else "_" for c in word) for word in words)


def _check_types(part: Cell | Acceleration) -> None:
    """Raise ValueError for a field of another type, and for a whole number below 1, of which none has a meaning."""
    for field in fields(part):
        value = getattr(part, field.name)
        if field.type == "str" and not isinstance(value, str):
            raise ValueError(f"{field.name} is {value!r}: write a text in quotes")
        if field.type == "int" and (type(value) is not int or value < 1):
            raise ValueError(f"{field.name} is {value!r}: write a whole number, at least 1")
        if field.type == "float" and type(value) not in (int, float):
            raise ValueError(f"{field.name} is {value!r}: write a number")
