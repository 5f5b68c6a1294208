"""``reproduce TABLE``: runs each cell of a published table with ``experiments.distill`` in its own folder.

    python -m experiments.reproduce small --data mnist=npz:mnist.npz cifar10=npz:cifar10.npz
    python -m experiments.reproduce cifar10 --cells acc_dd idc --budget 0.1 --workdir runs/cifar10
    python -m experiments.reproduce cifar10 --cells acc_dd idc --budget 0.1 --workdir runs/cifar10 --resume

Writes ``table.md`` and ``table.csv`` after every run.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from distill_jax.cli import distill
from distill_jax.cli.distill import Distill
from distill_jax.cli.output import display
from distill_jax.cli.process.interrupts import Interrupts
from distill_jax.cli.process.run_command import Broken
from distill_jax.cli.request import arguments
from distill_jax.cli.request.parser import parsed_with_shared
from distill_jax.cli.request.read_data import read
from distill_jax.cli.session.resume import command_line, resumable
from distill_jax.cli.session.setup import versions
from distill_jax.cli.session.workdir import (
    CELLS,
    CONFIG,
    REPRODUCED,
    REPRODUCED_PAGE,
    REPRODUCED_RUNS,
    Workdir,
    open_workdir,
)
from distill_jax.cli.tables import compare
from distill_jax.cli.tables.page import Gain, Outcome, figures, page
from distill_jax.cli.tables.plan import Plan, Reproduce, planned
from distill_jax.published.tables import Acceleration
from distill_jax.types import RequestError


@dataclass(frozen=True)
class Session:
    """The state of a table that is being reproduced."""

    plan: Plan
    workdir: Workdir
    command: str
    interrupts: Interrupts
    outcomes: dict[str, Outcome]
    """key of a cell -> its outcome so far"""
    gains: dict[str, Gain]
    """key of an acceleration -> its outcome so far"""
    finished: dict[str, Any]
    """name of a folder -> its finished run"""
    unreadable: dict[str, str] = field(default_factory=dict)
    """data set -> the reason why it cannot be read"""


def run(argv: list[str]) -> None:
    options, shared = parsed_with_shared(Reproduce, argv, "reproduce")
    options.validate_options()
    plan = planned(options, shared)
    outcomes, gains = plan.outcomes(), plan.gains()
    for gain in gains.values():
        for _, (method, *own) in gain.of.methods:
            arguments.parse([method, *plan.words(gain.of), *own], Distill)
    path = options.folder(f"table-{plan.table.name}")
    with open_workdir(path) as workdir, Interrupts() as interrupts, resumable("reproduce", argv, path):
        command, finished = command_line("reproduce", argv), _begin(workdir, plan)
        session = Session(plan, workdir, command, interrupts, outcomes, gains, finished)
        _write(session)
        failed = _execute(session)
        compare.say_left_out(finished, {f"{key}/seed{seed}" for key in outcomes for seed in range(options.seeds)})
    print((path / REPRODUCED_PAGE).read_text(encoding="utf-8"))
    print(f"table {path / REPRODUCED_PAGE}, figures {path / REPRODUCED}, a folder for each run in {path / CELLS}")
    if failed:
        raise Broken(f"{', '.join(failed)} failed, as the table says: --resume tries again")


def _begin(workdir: Workdir, plan: Plan) -> dict[str, Any]:
    """Prepare the workdir and return the finished runs of an earlier process."""
    options = plan.options
    config = {"schema": 1, "table": plan.table.name, "budget": options.budget, "options": plan.shared}
    config |= {"sources": plan.sources, "repeats": options.repeats, "versions": versions()}
    if options.overwrite:
        for of_run in sorted((workdir.path / CELLS).glob(f"*/*/{CONFIG}")):
            Workdir(of_run.parent).clear()
    begun = workdir.begin(config, options.resume, options.overwrite)
    return (workdir.read(REPRODUCED_RUNS) if begun else None) or {}


def _execute(session: Session) -> list[str]:
    """Execute all runs that no earlier process finished. Problems are recorded in the outcomes. Return the cells that
    failed."""
    options, failed = session.plan.options, []
    for key, outcome in session.outcomes.items():
        try:
            for run in _runs(session, outcome, options.seeds):
                outcome = replace(outcome, runs=(*outcome.runs, run))
                session.outcomes[key] = outcome
                # Written after every run, so that nothing is lost if a later run fails.
                _write(session)
        except (RequestError, Broken) as error:
            session.outcomes[key] = replace(outcome, problem=str(error))
            failed += [key] * isinstance(error, Broken)
            _write(session)
    for key, gain in session.gains.items():
        session.interrupts.check()
        try:
            session.gains[key] = replace(gain, curves=_curves(session, gain.of))
        except (RequestError, Broken) as error:
            session.gains[key] = replace(gain, problem=str(error))
            failed += [key] * isinstance(error, Broken)
        _write(session)
    return failed


def _runs(session: Session, outcome: Outcome, seeds: int) -> Iterator[dict[str, Any]]:
    """Yield the figures of the run with each seed, executing it if necessary."""
    for seed in range(seeds):
        name, words = f"{outcome.cell.key}/seed{seed}", [*outcome.words, "--seed", str(seed)]
        if session.finished.get(name, {}).get("words") != words:
            session.interrupts.check()
            print(name, flush=True)
            result = _distilled(session, session.workdir.path / CELLS / name, words)
            print(f"{name}: {display.plus_minus(result['accuracy'])} %", flush=True)
            environment = result["environment"]
            session.finished[name] = {
                "words": words,
                "accuracy": result["accuracy"]["per_repeat"],
                "steps": result["steps"]["outer"] * result["steps"]["inner"],
                "seconds": {phase: result["seconds"][phase] for phase in ("pretrain", "distill")},
                "device": f"{environment['device_count']} × {environment['device']}",
            }
            session.workdir.write(REPRODUCED_RUNS, session.finished)
        yield session.finished[name]


def _distilled(session: Session, folder: Path, words: list[str]) -> Any:
    """Return the result of the run in ``folder``. Raise RequestError if its data cannot be read or used."""
    options, _, _ = arguments.parse(words, Distill)
    if options.dataset in session.unreadable:
        raise RequestError(session.unreadable[options.dataset])
    try:
        request = distill.resolve_request([*words, "--workdir", str(folder), *_resume(folder)])
    except RequestError:
        try:
            read(options.dataset, options.side, options.subset or ())
        except RequestError as error:
            # Recorded, so that other cells do not search for the data again, which may take a minute.
            session.unreadable[options.dataset] = f"no data: {error}"
            raise RequestError(f"no data: {error}") from error
        raise
    return distill.execute(request, session.interrupts)


def _curves(session: Session, of: Acceleration) -> compare.Curves:
    """Return the curves of the two methods of an acceleration."""
    options, folder = session.plan.options, session.workdir.path / CELLS / of.key / "compare"
    source, *both = session.plan.words(of)
    methods = [f"{name}: {shlex.join(line)}" for name, line in of.methods]
    steps = max(of.points, round(options.budget * of.steps))
    words = ["compare", "--dataset", source, "--methods", *methods, "--ipc", str(of.ipc)]
    words += ["--steps", str(steps), "--points", str(of.points), "--seeds", str(options.seeds)]
    words += ["--repeats", str(of.repeats), "--workdir", str(folder), *_resume(folder), "--", *both]
    return compare.execute(compare.resolve_request(words), session.interrupts)


def _resume(folder: Path) -> list[str]:
    return ["--resume"] if (folder / CONFIG).exists() else []


def _write(session: Session) -> None:
    workdir, budget = session.workdir, session.plan.options.budget
    outcomes, gains = list(session.outcomes.values()), list(session.gains.values())
    workdir.write_rows(REPRODUCED, figures(outcomes, budget))
    workdir.write_text(REPRODUCED_PAGE, page(session.plan.table, outcomes, gains, budget, session.command))
