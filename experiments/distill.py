"""Distil a data set, score the result, and leave everything about it in one folder.

python -m experiments.distill acc_dd digits --ipc 1 --workdir runs/demo
python -m experiments.distill acc_dd digits --ipc 1 --workdir runs/demo --resume
python -m experiments.distill acc_dd digits --ipc 1 --workdir runs/demo --resume --labels soft
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import FlagCreatePairsOff

from configs import named
from distill_jax.data import Dataset
from distill_jax.distilled import DistilledSet
from distill_jax.store import Checkpoints, save_pool
from distill_jax.teachers import labelled
from distill_jax.types import PyTree, RequestError, Teaches
from experiments import cli, report, show
from experiments.entry import Interrupted, Interrupts, enter
from experiments.grid import draw
from experiments.job import Job, make_pool, pool_path, read_pool, resolve
from experiments.measure import Clock, environment, peak_bytes
from experiments.optimise import Rhythm, Session, optimise
from experiments.score import BASELINES, Judge, distilled_sets
from experiments.workdir import (
    CHECKPOINTS,
    CONFIG,
    DISTILLED,
    GRID,
    POOL,
    REPORT,
    RESULT,
    Workdir,
    check_same,
    held,
    new_folder,
    read_json,
    refuse_used,
    replaced,
)


@dataclass(frozen=True)
class Distill(cli.Common):
    """Learn a tiny synthetic training set from a data set, score it, and compare it with real images.

    METHOD and DATASET set the default of every option below. An axis is chosen by name, --models early-stage, or by
    import path, --objective my_module:MyObjective; its fields follow as --models.size 3.
    """

    workdir: Path | None = None
    """where everything goes; default: a new folder under runs/"""
    resume: FlagCreatePairsOff[bool] = False
    """go on with the run in WORKDIR"""
    overwrite: FlagCreatePairsOff[bool] = False
    """delete the run in WORKDIR and begin again"""
    pool: Path | None = None
    """models that experiments.pretrain trained; default: those in WORKDIR, else they are pretrained"""
    labels: Literal["hard", "soft"] = "hard"
    """soft: class probabilities, the mean of what the models of the pool see in the finished images"""
    save_every: int = 0
    """outer steps between checkpoints; 0: about a minute"""
    eval_every: int = 0
    """outer steps between reports on a tenth of the training data, which is withheld for that; 0: use all of it"""
    repeats: int = 5
    """R: networks trained from scratch for each accuracy"""
    baselines: tuple[str, ...] | None = None
    """what to compare with, of: random full; default: random, on digits also full"""

    @property
    def compared_with(self) -> tuple[str, ...]:
        default = ("random", "full") if self.dataset == "digits" else ("random",)
        return default if self.baselines is None else self.baselines


def run(argv: list[str]) -> None:
    request = cli.request(argv, Distill)
    options = request.options
    _check(options)
    path = options.workdir
    before = read_json(path / CONFIG) if path and options.resume else None
    job = resolve(request, options.eval_every, before.get("spec") if isinstance(before, Mapping) else None)
    if options.labels == "soft" and not isinstance(job.spec.models, Teaches):
        raise RequestError(
            f"labels soft needs teachers, and models {type(job.spec.models).__name__} trains none: "
            "add --models early-stage, or leave out --labels"
        )
    given = None
    if options.pool is not None:
        if job.spec.models.size == 0:
            raise RequestError(f"{job.method} takes no pool: leave out --pool, or choose --models early-stage")
        given = read_pool(job, pool_path(options.pool))
    path = path or new_folder(job.folder)
    if not options.resume and not options.overwrite:
        refuse_used(path)
    with held(path) as workdir, Interrupts() as interrupts:
        result = _begin(workdir, job, options)
        if result is None:
            print(show.configuration(job.title, job.experiment), flush=True)
            session = Session(job, job.data.real_data(), workdir, Clock(), interrupts)
            try:
                result = _work(session, options, given)
            except Interrupted:
                print(f"to go on: {_resume_command(argv, path)}", file=sys.stderr)
                raise
            report.write(path)
    print(show.result(result))
    print(f"images {path / DISTILLED}, picture {path / GRID}, report {path / REPORT}, all figures {path / RESULT}")


def _check(options: Distill) -> None:
    """Refuse options that make no sense."""
    if options.resume and options.overwrite:
        raise RequestError("--resume goes on with a run and --overwrite deletes it: give one of them")
    if options.resume and options.workdir is None:
        raise RequestError("--resume needs the --workdir of the run to go on with")
    if options.repeats < 1:
        raise RequestError(f"repeats is {options.repeats}: it must be at least 1")
    for name in ("save_every", "eval_every"):
        if getattr(options, name) < 0:
            raise RequestError(f"{name} is {getattr(options, name)}: it must be 0 or more")
    for name in options.compared_with:
        named("baseline", name, BASELINES)


def _begin(workdir: Workdir, job: Job, options: Distill) -> Mapping[str, Any] | None:
    """Make the workdir ready for the run, and write ``config.json``; or the result, where the run is finished."""
    config = _config(job, options)
    if not options.resume:
        if not options.overwrite:
            refuse_used(workdir.path)
        workdir.clear()
    before = workdir.read(CONFIG)
    if before is not None:
        check_same(before, config)
        steps = Checkpoints(workdir.path / CHECKPOINTS).steps()
        if steps and steps[0] > job.spec.steps:
            raise RequestError(
                f"{workdir.path} has taken {steps[0]} steps already: give at least "
                f"--outer-steps {-(-steps[0] // job.spec.inner_steps)}, or another --workdir"
            )
        result = workdir.read(RESULT)
        if result is not None and _asked(result["config"]) == _asked(config):
            return result
    elif options.resume:
        print(f"there is no run in {workdir.path} yet: beginning one", file=sys.stderr)
    workdir.write(CONFIG, config)
    return None


def _config(job: Job, options: Distill) -> dict[str, Any]:
    return {
        **job.describe(),
        "pool": None if options.pool is None else str(options.pool),
        "labels": options.labels,
        "save_every": options.save_every,
        "eval_every": options.eval_every,
        "repeats": options.repeats,
        "baselines": options.compared_with,
        "deterministic": options.deterministic,
    }


def _asked(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a result depends on."""
    config = json.loads(json.dumps(config))
    return {name: value for name, value in config.items() if name not in ("versions", "save_every")}


def _work(session: Session, options: Distill, given: PyTree) -> dict[str, Any]:
    """All phases, each from where an earlier process left it."""
    job, data, workdir, clock, interrupts = session
    clock.spent(None)
    pool = _pool(session, given)
    clock.spent("pretrain")

    def judge_on(part: Dataset) -> Judge:
        test = part.test_arrays()
        return Judge(job.net, job.experiment.protocol, test, data.mean, data.std, job.keys.score, interrupts)

    watch = judge_on(job.data) if options.eval_every else None
    distilled = optimise(session, pool, Rhythm(options.save_every, options.eval_every), watch)
    if options.labels == "soft":
        assert isinstance(job.spec.models, Teaches)
        distilled = labelled(distilled, job.net, job.spec.models.teachers(pool))
    _save(workdir, distilled)

    judge = judge_on(job.source)
    sets = distilled_sets(distilled, options.repeats)

    def baseline(name: str) -> dict[str, Any]:
        return BASELINES[name](judge, data, job.spec.ipc, len(sets.store.images), options.repeats, job.keys.draw)

    accuracy = baseline("full") if job.method == "full" else judge.score("scoring", sets)
    clock.spent("evaluate")
    baselines = {name: baseline(name) if name in options.compared_with else None for name in BASELINES}
    clock.spent("baselines")
    # Only now is the card complete. A run that is interrupted before has saved the same images with no score yet.
    _save(workdir, distilled.with_card(score=None if job.method == "full" else accuracy))
    result = {
        "method": job.method,
        "dataset": job.dataset,
        "ipc": job.spec.ipc,
        "factor": job.spec.parameterisation.factor,
        "net": cli.choice_name("net", job.spec.net),
        "seed": job.seed,
        "accuracy": accuracy,
        "baselines": baselines,
        "seconds": clock.rounded(),
        "steps": {"outer": job.spec.outer_steps, "inner": job.spec.inner_steps},
        "peak_bytes": peak_bytes(),
        "environment": environment(),
        "config": _config(job, options),
    }
    workdir.write(RESULT, result)
    return result


def _pool(session: Session, given: PyTree) -> PyTree:
    """The models to start from: those in the workdir, which are the ones given or pretrained now."""
    job, data, workdir, _, interrupts = session
    if job.spec.models.size == 0:
        return None
    path = workdir.path / POOL
    if not workdir.has(POOL):
        if given is not None:
            save_pool(path, given, job.describe_pool())
        else:
            make_pool(job, workdir, data, interrupts)
    # Read back, so that a run computes with the same arrays whether it made them or found them.
    return read_pool(job, path)


def _save(workdir: Workdir, distilled: DistilledSet) -> None:
    with replaced(workdir.path / DISTILLED) as temporary:
        distilled.save(temporary)
    with replaced(workdir.path / GRID) as temporary:
        draw(distilled).save(temporary)


def _resume_command(argv: Sequence[str], path: Path) -> str:
    """The command line that goes on with the run in ``path``."""
    words = [word for word in argv if word not in ("--resume", "--overwrite")]
    if not any(word.partition("=")[0] == "--workdir" for word in words):
        words += ["--workdir", str(path)]
    return shlex.join(["python", "-m", "experiments.distill", *words, "--resume"])


def main(argv: Sequence[str] | None = None) -> int:
    return enter(run, argv)


if __name__ == "__main__":
    sys.exit(main())
