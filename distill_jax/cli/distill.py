"""Distil a data set, score the result, and write everything about the run to one folder.

python -m experiments.distill acc_dd digits --ipc 1 --workdir runs/demo
python -m experiments.distill acc_dd digits --ipc 1 --workdir runs/demo --resume
python -m experiments.distill acc_dd digits --ipc 1 --workdir runs/demo --resume --labels soft
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from tyro.conf import FlagCreatePairsOff, arg

from distill_jax import hosts
from distill_jax.checkpoint import Checkpoints
from distill_jax.cli import report
from distill_jax.cli.output import display
from distill_jax.cli.output.image_grid import draw
from distill_jax.cli.output.tensorboard import require_tensorboard
from distill_jax.cli.process.clock import Clock, environment, peak_bytes
from distill_jax.cli.process.interrupts import Interrupts
from distill_jax.cli.process.launch import OnHosts
from distill_jax.cli.process.run_command import run_command
from distill_jax.cli.request import arguments
from distill_jax.cli.request.choices import choice_name
from distill_jax.cli.session.atomic import read_json, replaced
from distill_jax.cli.session.optimise import Session, optimise, rounded
from distill_jax.cli.session.pool import given_pool, has_pool, pool_for
from distill_jax.cli.session.resume import Resumable, resumable, warn_other_rates
from distill_jax.cli.session.score import BASELINES, Baseline, Scorer, share_store
from distill_jax.cli.session.setup import Setup, refuse_different, set_up
from distill_jax.cli.session.workdir import (
    CHECKPOINTS,
    CONFIG,
    DISTILLED,
    GRID,
    REPORT,
    RESULT,
    Workdir,
    check_same,
    open_workdir,
)
from distill_jax.data import Dataset
from distill_jax.distilled import DistilledSet
from distill_jax.evaluation import at_learned_rate, repeated
from distill_jax.spec import Spec
from distill_jax.types import PyTree, RequestError, lookup, require_at_least


@dataclass(frozen=True)
class Distill(OnHosts, Resumable, arguments.Common):
    """Learn a tiny synthetic training set from a data set, score it, and compare it with real images.

    METHOD and DATASET set the default of every option below. Select the choice on an axis by name (--models
    early-stage) or by import path (--objective my_module:MyObjective), and set its fields by path (--models.size 3).
    """

    pool: arguments.Pool = None
    save_every: int = 0
    """outer steps between checkpoints; 0: save about once a minute"""
    eval_every: int = 0
    """outer steps between accuracy reports on a withheld tenth of the training data; 0: no reports, nothing withheld"""
    tensorboard: FlagCreatePairsOff[bool] = False
    """also write loss and held-out accuracy for TensorBoard, to WORKDIR/tensorboard"""
    resident_images: int = 0
    """real images per class on the device at a time, if the data set does not fit; the run cycles through portions of
    this size. Give as many as fit, preferably at least --selector.batch; 0: all"""
    repeats: int = 5
    """R, the number of networks trained from scratch for each accuracy"""
    baselines: Annotated[tuple[str, ...] | None, arg(metavar="NAME [NAME ...]")] = None
    """baselines to compare with: random, random_soft (random images labelled by the pool), full; default: random, on
    digits also full, and random_soft if the method has a pool and its labels are not hard"""

    uint8: FlagCreatePairsOff[bool] = False
    """round the images to 8 bits before they are scored and saved, which makes the file about a third of the size"""

    def validate_options(self) -> None:
        super().validate_options()
        if self.tensorboard:
            require_tensorboard()
        require_at_least(1, self, "repeats")
        require_at_least(0, self, "save_every", "eval_every")
        for name in self.baselines or ():
            lookup("baseline", name, BASELINES)

    def resolved_baselines(self, spec: Spec) -> tuple[str, ...]:
        """Return the names of the baselines to compare with, resolving the default for ``spec``."""
        soft = (spec.labels.from_teachers or spec.labels.learned) and spec.models.size > 0
        full = self.dataset == "digits" and not self.resident_images and self.method != "full"
        default = ("random", *["random_soft"] * soft, *["full"] * full)
        return default if self.baselines is None else self.baselines


class ResolvedRequest(NamedTuple):
    """A valid command line, with its data set read and its defaults filled in."""

    options: Distill
    setup: Setup
    pool: PyTree
    """pool of models that --pool names; None without the option"""
    path: Path
    """the workdir"""


def run(argv: list[str]) -> None:
    request = resolve_request(argv)
    path = request.path
    with Interrupts() as interrupts, resumable("distill", argv, path):
        result = execute(request, interrupts)
    print(display.result(result))
    images = f"images {path / DISTILLED}, picture {path / GRID}, report {path / REPORT}, "
    print(images * _keeps_images(request.setup) + f"all figures {path / RESULT}")


def resolve_request(argv: list[str]) -> ResolvedRequest:
    """Parse ``argv`` and read the data set. Raises RequestError for an invalid request, before anything is written."""
    request = arguments.request(argv, Distill)
    options = request.options
    path = options.workdir
    config = hosts.broadcast(partial(read_json, path / CONFIG)) if path and options.resume else None
    earlier_spec = config.get("spec") if isinstance(config, Mapping) else None
    setup = set_up(request, options.eval_every, earlier_spec, parts=True, resident=options.resident_images)
    baselines = options.resolved_baselines(setup.spec)
    if options.resident_images and (setup.method == "full" or "full" in baselines):
        raise RequestError("full trains on all images at once: leave out either --resident-images or full")
    if "random_soft" in baselines and not setup.spec.models.size:
        raise RequestError(f"{setup.method} has no pool to label random images: leave random_soft out of --baselines")
    if options.uint8 and (setup.spec.parameterisation.space != "pixel" or setup.data.whitening is not None):
        raise RequestError(
            f"images of {setup.method} on {setup.dataset} are not pixels in [0, 1], so they cannot be rounded to 8 "
            "bits: leave out --uint8"
        )
    if "random_soft" in baselines and setup.spec.classes:
        raise RequestError("the pool's networks label all classes: leave out either --classes or random_soft")
    if isinstance(config, Mapping) and path is not None and has_pool(path):
        # The run has its own copy of --pool, which may have moved since.
        options = replace(options, pool=options.pool or (config.get("pool") and Path(config["pool"])))
        pool = None
    else:
        pool = given_pool(setup, options.pool)
    refuse_different(setup)
    return ResolvedRequest(options, setup, pool, options.folder(setup.folder))


def execute(request: ResolvedRequest, interrupts: Interrupts) -> Mapping[str, Any]:
    """Run every phase that earlier processes did not finish. Returns the content of ``result.json``."""
    options, setup, pool, path = request
    with open_workdir(path) as workdir:
        result = hosts.broadcast(lambda: _begin(workdir, setup, options))
        if result is None:
            print(display.configuration(setup.title, setup.experiment), flush=True)
            session = Session(setup, setup.feed(), workdir, Clock(), interrupts)
            result = _run_phases(session, options, pool)
        if hosts.is_first() and _keeps_images(setup) and not (path / REPORT).exists():
            report.write(path)
    return result


def _begin(workdir: Workdir, setup: Setup, options: Distill) -> Mapping[str, Any] | None:
    """Prepare the workdir for the run. Returns the result if an earlier process finished it, else None."""
    config = _config(setup, options)
    earlier_config = workdir.read(CONFIG) if options.resume else None
    if earlier_config is not None:
        check_same(earlier_config, config)
    steps = Checkpoints(workdir.path / CHECKPOINTS).steps() if options.resume else []
    if steps and steps[0] > setup.spec.steps:
        raise RequestError(
            f"the run in {workdir.path} has already taken {steps[0]} steps: give at least "
            f"--outer-steps {-(-steps[0] // setup.spec.inner_steps)}, or another --workdir"
        )
    if steps and earlier_config is not None:
        warn_other_rates(setup.spec, earlier_config["spec"]["outer_steps"], steps[0])
    result = None if earlier_config is None else workdir.read(RESULT)
    if result is not None and _relevant(result["config"]) == _relevant(config):
        return result  # nothing is computed, so it does not matter which versions and devices this process has
    workdir.begin(config, options.resume, options.overwrite)
    for name in (RESULT, REPORT):  # they are of another set or protocol than this run, which may be interrupted again
        (workdir.path / name).unlink(missing_ok=True)
    return None


def _config(setup: Setup, options: Distill) -> dict[str, Any]:
    return {
        **setup.describe(),
        "pool": None if options.pool is None else str(options.pool),
        "save_every": options.save_every,
        "eval_every": options.eval_every,
        "repeats": options.repeats,
        "baselines": options.resolved_baselines(setup.spec),
        "deterministic": options.deterministic,
        **({"uint8": True} if options.uint8 else {}),
    }


def _relevant(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of ``config`` that the result depends on."""
    config = json.loads(json.dumps(config))
    return {name: value for name, value in config.items() if name not in ("versions", "save_every", "dataset")}


def _run_phases(session: Session, options: Distill, given: PyTree) -> dict[str, Any]:
    """Pretrain, distil, score and compare, resuming each phase where an earlier process left it. Returns the result.

    ``given``: the pool that --pool names, or None.
    """
    setup, data, workdir, clock, interrupts = session
    clock.spent(None)
    pool = pool_for(setup, workdir, data, given, interrupts, clock)
    clock.spent("pretrain")

    def part_of(source: Dataset) -> Dataset:
        """Return ``source``, or its part with the classes of --classes."""
        return source.part(source.name, setup.spec.classes) if setup.spec.classes else source

    def scorer_for(source: Dataset) -> Scorer:
        """Return the scorer on the test images of ``source``."""
        part = part_of(source)
        net = setup.spec.net.build(part.shape, part.classes)
        protocol, test = setup.experiment.protocol, part.test_arrays()
        return Scorer(net, protocol, test, data.normaliser, setup.keys.score, interrupts)

    held_out_scorer = scorer_for(setup.data) if options.eval_every else None
    distilled = optimise(session, pool, options.save_every, options.eval_every, held_out_scorer, options.tensorboard)
    distilled = rounded(distilled) if options.uint8 else distilled
    if _keeps_images(setup):
        _save(workdir, distilled)

    scorer, sets = scorer_for(setup.source), repeated(distilled, options.repeats)
    decoded = len(sets.store.images)  # before random images join them in one store
    real = (setup.feed(part_of(setup.data)) if setup.spec.classes else data).at(0)

    def baseline(name: str) -> Baseline:
        labeller = scorer._replace(teachers=setup.spec.models.teachers(pool)) if name == "random_soft" else scorer
        return BASELINES[name](labeller, real, setup.spec.ipc, decoded, options.repeats, setup.keys.draw)

    clock.spent("evaluate")
    to_compare = {name: baseline(name) for name in options.resolved_baselines(setup.spec)}
    if "random" in to_compare:
        sets, random = share_store(sets, to_compare["random"].sets, data.normaliser)
        to_compare["random"] = to_compare["random"]._replace(sets=random)
    clock.spent("baselines")
    candidate = Baseline("scoring", sets, at_learned_rate(scorer.protocol, distilled))
    accuracy = scorer.score(*(candidate if _keeps_images(setup) else baseline("full")))
    clock.spent("evaluate")
    baselines = {name: scorer.score(*to_compare[name]) if name in to_compare else None for name in BASELINES}
    clock.spent("baselines")
    if _keeps_images(setup):
        # The score completes the card. A run that was interrupted earlier has saved the same images without a score.
        _save(workdir, distilled.with_card(score=accuracy))
    result = {
        "method": setup.method,
        "dataset": setup.dataset,
        "ipc": setup.spec.ipc,
        "factor": setup.spec.parameterisation.factor,
        "net": choice_name("net", setup.spec.net),
        "seed": setup.seed,
        "bytes": distilled.nbytes if _keeps_images(setup) else {},
        "accuracy": accuracy,
        "baselines": baselines,
        "seconds": clock.rounded(),
        "steps": {"outer": setup.spec.outer_steps, "inner": setup.spec.inner_steps},
        "peak_bytes": peak_bytes(),
        "environment": environment(),
        "config": _config(setup, options),
    }
    workdir.write(RESULT, result)
    return result


def _keeps_images(setup: Setup) -> bool:
    """Return whether the run makes a set. The baseline ``full`` trains on all real images and keeps none."""
    return setup.method != "full"


def _save(workdir: Workdir, distilled: DistilledSet) -> None:
    if not hosts.is_first():
        return
    with replaced(workdir.path / DISTILLED) as temporary:
        distilled.save(temporary)
    with replaced(workdir.path / GRID) as temporary:
        draw(distilled).save(temporary)


main = partial(run_command, run, together=True)
