"""Which method is best on your data: several of them under one budget, with several seeds.

    python -m experiments.reproduce compare --dataset digits --methods idc acc_dd dream --seconds 20 --points 5
    python -m experiments.reproduce compare --dataset digits --methods all --ipc 1 10

Writes ``compare.csv`` (one line per method, seed and point), ``compare.md`` (a table) and, where there are several
points, ``compare.png`` (accuracy against seconds).
"""

from __future__ import annotations

import csv
import inspect
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from distill_jax.cli import arguments, display
from distill_jax.cli.comparison import Budget, Point, curve
from distill_jax.cli.process import Interrupts, enter, environment, resumable
from distill_jax.cli.score import summary
from distill_jax.cli.setup import Setup, set_up
from distill_jax.cli.workdir import (
    COMPARED,
    COMPARED_PLOT,
    COMPARED_RUNS,
    COMPARED_TABLE,
    Workdir,
    held,
    new_folder,
    refuse_used,
    replaced,
)
from distill_jax.evaluation import PROTOCOLS
from distill_jax.methods import PRESETS
from distill_jax.types import RequestError

FAMILY = ("idc", "acc_dd", "dream", "dream_acc_dd", "dsa", "dsa --models early-stage --perturb directions")


@dataclass(frozen=True)
class Reproduce:
    """Run methods on a data set under one budget and set their accuracies side by side.

    Options of experiments.distill that all methods take follow after a lone --, as in -- --net.width 32.
    """

    target: Annotated[Positional[Literal["compare"]], arg(metavar="compare")]
    """what to make"""
    dataset: Annotated[str, arg(metavar="DATASET")]
    """digits, npz:PATH, folder:PATH, or a name of TensorFlow Datasets"""
    subset: arguments.Subset = None
    methods: Annotated[tuple[str, ...], arg(metavar="METHOD [METHOD ...]")] = FAMILY
    """methods, each with options of its own if quoted: "dsa --models early-stage", and with a name for the table if
    one stands before a colon: "mine: idc --net.width 64"; all: every method and baseline"""
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
    devices: int = 0
    """on a CPU, how many devices it counts as, which share the work; 0: one for each physical core"""
    workdir: Path | None = None
    """where everything goes; default: a new folder under runs/"""
    resume: FlagCreatePairsOff[bool] = False
    """go on with the comparison in WORKDIR: runs that are finished are kept"""
    overwrite: FlagCreatePairsOff[bool] = False
    """replace what is in WORKDIR"""

    @property
    def budget(self) -> Budget:
        return Budget(self.seconds, self.steps, self.points)

    @property
    def lines(self) -> dict[str, str]:
        """What each is called -> the method with its options."""
        named = (line.rpartition(": ") for line in (PRESETS if self.methods == ("all",) else self.methods))
        return {name or line: line for name, _, line in named}


@dataclass(frozen=True)
class Entrant(arguments.Common):
    """A method that takes part."""


class Curves(dict[tuple[str, int], list[list[Point]]]):
    """(method, ipc) -> for each seed, the points of its run."""


def run(argv: list[str]) -> None:
    cut = argv.index("--") if "--" in argv else len(argv)
    mine, shared = argv[:cut], argv[cut + 1 :]
    about = inspect.getdoc(Reproduce)
    options = tyro.cli(Reproduce, args=mine, prog="python -m experiments.reproduce", description=about)
    for name in ("seeds", "repeats"):
        if getattr(options, name) < 1:
            raise RequestError(f"{name} is {getattr(options, name)}: it must be at least 1")
    budget = options.budget
    lines = options.lines.items()
    setups = {(name, ipc): _setup(line, ipc, options, shared) for ipc in options.ipc for name, line in lines}
    arguments.check_resume(options)
    path = options.workdir or new_folder(f"compare-{next(iter(setups.values())).folder}")
    if not options.overwrite and not options.resume:
        refuse_used(path)
    words = [word for word in argv if word not in ("--resume", "--overwrite")]
    command = shlex.join(["python", "-m", "experiments.reproduce", *words])
    curves = Curves()
    with held(path) as workdir, Interrupts() as interrupts, resumable("reproduce", argv, path):
        kept = _begin(workdir, options, setups)
        for (line, ipc), setup in setups.items():
            runs = curves.setdefault((line, ipc), [])
            for seed in range(options.seeds):
                name = f"{line}, ipc {ipc}, seed {seed}"
                if name not in kept:
                    kept[name] = curve(replace(setup, seed=seed), budget, options.repeats, interrupts)
                    workdir.write(COMPARED_RUNS, kept)
                runs.append([Point(*point) for point in kept[name]])
                last = runs[-1][-1]
                accuracy, took = display.plus_minus(summary(last.accuracies)), display.duration(last.seconds)
                print(f"{name}: {accuracy} % after {last.step} steps, {took}", flush=True)
                # After every run, so that nothing is lost where a later one breaks.
                _write(workdir, options, curves, command)
    print((path / COMPARED_TABLE).read_text())
    print(
        f"figures {path / COMPARED}, table {path / COMPARED_TABLE}"
        + (f", picture {path / COMPARED_PLOT}" if options.points > 1 else "")
    )


def _begin(workdir: Workdir, options: Reproduce, setups: Mapping[tuple[str, int], Setup]) -> dict[str, Any]:
    """Make the workdir ready; returns the runs that an earlier process finished, by name."""
    described = {f"{line}, ipc {ipc}": setup.describe() for (line, ipc), setup in setups.items()}
    versions = [of.pop("versions") for of in described.values()][0]
    budget = {"seconds": options.seconds, "steps": options.steps, "points": options.points}
    about = {"repeats_of_each": options.repeats, "held_out": options.held_out, "versions": versions}
    config = {"schema": 1, "methods": described, "budget": budget, **about}
    begun = workdir.begin(config, options.resume, options.overwrite)
    return (workdir.read(COMPARED_RUNS) if begun else None) or {}


def _setup(line: str, ipc: int, options: Reproduce, shared: list[str]) -> Setup:
    """Raises RequestError for a method or an option that does not exist, before any work."""
    try:
        method, *own = shlex.split(line)
    except ValueError as error:
        raise RequestError(
            f"--methods {line!r} cannot be read ({error}): close its quotes, and name a method"
        ) from error
    only = arguments.chosen_classes(options.subset)
    words = [method, options.dataset, *(["--subset", *only] if only else []), "--ipc", str(ipc)]
    words += ["--protocol", options.protocol, *shared, *own]
    request = arguments.request(words, Entrant)
    if (request.options.subset or ()) != only:
        raise RequestError("all methods are compared on the same classes: give --subset beside --dataset")
    return set_up(request, eval_every=int(options.held_out))


# ------------------------------------------------------------------ what is written


def _write(workdir: Workdir, options: Reproduce, curves: Curves, command: str) -> None:
    with replaced(workdir.path / COMPARED) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "ipc", "seed", "step", "seconds", "accuracy", "std", "random_same_labels"])
        for (line, ipc), runs in curves.items():
            for seed, points in enumerate(runs):
                for point in points:
                    of = summary(point.accuracies)
                    row = [
                        point.step,
                        round(point.seconds, 3),
                        round(of["mean"], 3),
                        None if of["std"] is None else round(of["std"], 3),
                        None if point.random is None else round(float(np.mean(point.random)), 3),
                    ]
                    writer.writerow([line, ipc, seed, *row])
    with replaced(workdir.path / COMPARED_TABLE) as temporary:
        temporary.write_text(_report(options, curves, command))
    if options.points > 1:
        from distill_jax.cli.plot import draw_curves  # matplotlib takes half a second to import

        with replaced(workdir.path / COMPARED_PLOT) as temporary:
            title = f"{options.dataset.rpartition('/')[2]}, {options.seeds} seed{'s' * (options.seeds > 1)}"
            draw_curves(title, {_label(*key, options): runs for key, runs in curves.items()}).savefig(
                temporary, format="png", dpi=150
            )


def _label(line: str, ipc: int, options: Reproduce) -> str:
    return line if len(options.ipc) == 1 else f"{line}, ipc {ipc}"


def _report(options: Reproduce, curves: Curves, command: str) -> str:
    about = environment()
    scored = "held-out training images" if options.held_out else "the test images"
    how = f"protocol {options.protocol} for all"
    lines = [f"`{command}`", "", f"Accuracy on {scored}, {how}; {about['device']}, jax {about['jax']}.", ""]
    for ipc in options.ipc:
        of_ipc = {line: runs for (line, i), runs in curves.items() if i == ipc}
        if of_ipc:
            lines += [f"{ipc} image{'s' * (ipc > 1)} per class", "", *_table(of_ipc), ""]
    return "\n".join(lines)


def _table(curves: dict[str, list[list[Point]]]) -> list[str]:
    """Markdown. "Above random" is given with twice its standard error; where there are labels that are not hard, random
    images under the same ones have a column."""
    finals = {line: _finals([points[-1] for points in runs]) for line, runs in curves.items()}
    beside = {line: [p for points in runs for p in points[-1].random or ()] for line, runs in curves.items()}
    head = [
        "method",
        "accuracy %",
        "above random",
        "seconds",
        "steps",
        *["random, same labels %"] * any(beside.values()),
    ]
    rows = [head, ["---"] * len(head)]
    random = finals.get("random")
    for line, runs in curves.items():
        last = [points[-1] for points in runs]
        accuracies = finals[line]
        above = ""
        if random is not None and line != "random":
            error = np.hypot(_standard_error(accuracies), _standard_error(random))
            above = f"{np.mean(accuracies) - np.mean(random):+.1f} ± {2 * error:.1f}"
        seconds = np.mean([point.seconds for point in last])
        row = [line, display.plus_minus(summary(accuracies)), above, f"{seconds:.1f}", str(last[0].step)]
        same = display.plus_minus(summary(beside[line])) if beside[line] else ""
        rows.append([*row, same][: len(head)])
    return ["| " + " | ".join(row) + " |" for row in rows]


def _finals(points: list[Point]) -> list[float]:
    """One number per run; for a single run, one per network trained on its set."""
    return points[0].accuracies if len(points) == 1 else [float(np.mean(point.accuracies)) for point in points]


def _standard_error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0


main = partial(enter, run)
