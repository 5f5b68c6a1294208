"""Distil a data set, score the result, and leave everything about it in one folder.

python -m experiments.distill acc_dd digits --ipc 1 --workdir runs/demo
python -m experiments.distill acc_dd digits --ipc 1 --workdir runs/demo --resume
python -m experiments.distill acc_dd digits --ipc 1 --workdir runs/demo --resume --labels soft
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from tyro.conf import FlagCreatePairsOff, arg

from distill_jax import hosts
from distill_jax.checkpoint import Checkpoints
from distill_jax.cli import arguments, display, report
from distill_jax.cli.image_grid import draw
from distill_jax.cli.launch import OnHosts
from distill_jax.cli.optimise import Session, optimise, rounded
from distill_jax.cli.process import Clock, Interrupts, environment, peak_bytes, run_command
from distill_jax.cli.resume import Resumable, resumable
from distill_jax.cli.score import BASELINES, Baseline, Scorer, share_store
from distill_jax.cli.setup import Setup, given_pool, pool_for, refuse_different, set_up
from distill_jax.cli.tensorboard import require_tensorboard
from distill_jax.cli.workdir import (
    CHECKPOINTS,
    CONFIG,
    DISTILLED,
    GRID,
    REPORT,
    RESULT,
    Workdir,
    check_same,
    open_workdir,
    read_json,
    replaced,
)
from distill_jax.data import Dataset
from distill_jax.distilled import DistilledSet
from distill_jax.evaluation import at_learned_rate, repeated
from distill_jax.spec import Spec
from distill_jax.types import PyTree, RequestError, lookup, require_at_least


@dataclass(frozen=True)
class Distill(OnHosts, Resumable, arguments.Common):
    """Learn a tiny synthetic training set from a data set, score it, and compare it with real images.

    METHOD and DATASET set the default of every option below. An axis is chosen by name, --models early-stage, or by
    import path, --objective my_module:MyObjective; its fields follow as --models.size 3.
    """

    pool: arguments.Pool = None
    save_every: int = 0
    """outer steps between checkpoints; 0: about a minute"""
    eval_every: int = 0
    """outer steps between reports on a tenth of the training data, which is withheld for that; 0: use all of it"""
    tensorboard: FlagCreatePairsOff[bool] = False
    """write loss and held-out accuracy for TensorBoard too, into WORKDIR/tensorboard"""
    resident_images: int = 0
    """real images of each class that the device holds at a time, in turns: as many as fit, best no fewer than
    --selector.batch; 0: all"""
    repeats: int = 5
    """R: networks trained from scratch for each accuracy"""
    baselines: Annotated[tuple[str, ...] | None, arg(metavar="NAME [NAME ...]")] = None
    """what to compare with, of: random random_soft full; default: random, on digits also full, and random_soft, random
    images labelled by the pool, where the method's labels are not hard"""

    uint8: FlagCreatePairsOff[bool] = False
    """round the images to the 256 values of 8 bits before they are scored and saved: a file of a third of the size"""

    def compared_with(self, spec: Spec) -> tuple[str, ...]:
        soft = (spec.labels.from_teachers or spec.labels.learned) and spec.models.size > 0
        full = self.dataset == "digits" and not self.resident_images
        default = ("random", *["random_soft"] * soft, *["full"] * full)
        return default if self.baselines is None else self.baselines


class Resolved(NamedTuple):
    """A request, resolved."""

    options: Distill
    setup: Setup
    pool: PyTree
    """the one that was given"""
    path: Path
    """the workdir"""


def run(argv: list[str]) -> None:
    job = requested(argv)
    path = job.path
    with Interrupts() as interrupts, resumable("distill", argv, path):
        result = work(job, interrupts)
    print(display.result(result))
    print(f"images {path / DISTILLED}, picture {path / GRID}, report {path / REPORT}, all figures {path / RESULT}")


def requested(argv: list[str]) -> Resolved:
    """What ``argv`` asks for. Raises RequestError, before anything is written, for what makes no sense."""
    request = arguments.request(argv, Distill)
    options = request.options
    _check(options)
    path = options.workdir
    before = hosts.broadcast(partial(read_json, path / CONFIG)) if path and options.resume else None
    begun = before.get("spec") if isinstance(before, Mapping) else None
    setup = set_up(request, options.eval_every, begun, parts=True, resident=options.resident_images)
    if options.resident_images and (setup.method == "full" or "full" in options.compared_with(setup.spec)):
        raise RequestError("full trains on all images at once: leave out --resident-images, or full")
    if "random_soft" in options.compared_with(setup.spec) and not setup.spec.models.size:
        raise RequestError(f"{setup.method} has no pool to label random images: leave random_soft out of --baselines")
    if options.uint8 and (setup.spec.parameterisation.space != "pixel" or setup.data.whitening is not None):
        raise RequestError(f"images of {setup.method} on {setup.dataset} are no pixels in [0, 1]: leave out --uint8")
    given = given_pool(setup, options.pool)
    refuse_different(setup)
    return Resolved(options, setup, given, options.folder(setup.folder))


def work(job: Resolved, interrupts: Interrupts) -> Mapping[str, Any]:
    """All phases that earlier processes did not finish; returns what ``result.json`` holds."""
    options, setup, given, path = job
    with open_workdir(path) as workdir:
        result = hosts.broadcast(lambda: _begin(workdir, setup, options))
        if result is None:
            print(display.configuration(setup.title, setup.experiment), flush=True)
            session = Session(setup, setup.feed(), workdir, Clock(), interrupts)
            result = _work(session, options, given)
            if hosts.is_first():
                report.write(path)
    return result


def _check(options: Distill) -> None:
    """Refuse options that make no sense."""
    options.check_folder()
    if options.tensorboard:
        require_tensorboard()
    require_at_least(1, options, "repeats")
    require_at_least(0, options, "save_every", "eval_every")
    for name in options.baselines or ():
        lookup("baseline", name, BASELINES)


def _begin(workdir: Workdir, setup: Setup, options: Distill) -> Mapping[str, Any] | None:
    """Make the workdir ready for the run; returns its result where it is finished already."""
    config = _config(setup, options)
    before = workdir.read(CONFIG) if options.resume else None
    if before is not None:
        check_same(before, config)
    steps = Checkpoints(workdir.path / CHECKPOINTS).steps() if options.resume else []
    if steps and steps[0] > setup.spec.steps:
        raise RequestError(
            f"{workdir.path} has taken {steps[0]} steps already: give at least "
            f"--outer-steps {-(-steps[0] // setup.spec.inner_steps)}, or another --workdir"
        )
    result = workdir.read(RESULT) if workdir.begin(config, options.resume, options.overwrite) else None
    return result if result is not None and _asked(result["config"]) == _asked(config) else None


def _config(setup: Setup, options: Distill) -> dict[str, Any]:
    return {
        **setup.describe(),
        "pool": None if options.pool is None else str(options.pool),
        "save_every": options.save_every,
        "eval_every": options.eval_every,
        "repeats": options.repeats,
        "baselines": options.compared_with(setup.spec),
        "deterministic": options.deterministic,
        **({"uint8": True} if options.uint8 else {}),
    }


def _asked(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a result depends on."""
    config = json.loads(json.dumps(config))
    return {name: value for name, value in config.items() if name not in ("versions", "save_every")}


def _work(session: Session, options: Distill, given: PyTree) -> dict[str, Any]:
    """All phases, each from where an earlier process left it."""
    setup, data, workdir, clock, interrupts = session
    clock.spent(None)
    pool = pool_for(setup, workdir, data, given, interrupts)
    clock.spent("pretrain")

    def scorer_for(source: Dataset) -> tuple[Scorer, Dataset]:
        """Images of some classes are scored as a data set of their own."""
        known = source.only([source.class_names[c] for c in setup.spec.classes]) if setup.spec.classes else source
        net = setup.spec.net.build(known.shape, known.classes)
        protocol, test = setup.experiment.protocol, known.test_arrays()
        return Scorer(net, protocol, test, data.normaliser, setup.keys.score, interrupts), known

    watch = scorer_for(setup.data)[0] if options.eval_every else None
    distilled = optimise(session, pool, options.save_every, options.eval_every, watch, options.tensorboard)
    distilled = rounded(distilled) if options.uint8 else distilled
    _save(workdir, distilled)

    scorer, known = scorer_for(setup.source)
    sets = repeated(distilled, options.repeats)
    real = (setup.feed(known) if setup.spec.classes else data).at(0)

    def baseline(name: str) -> Baseline:
        judge = scorer._replace(teachers=setup.spec.models.teachers(pool)) if name == "random_soft" else scorer
        return BASELINES[name](judge, real, setup.spec.ipc, len(sets.store.images), options.repeats, setup.keys.draw)

    clock.spent("evaluate")
    others = {name: baseline(name) for name in options.compared_with(setup.spec)}
    if "random" in others:
        sets, random = share_store(sets, others["random"].sets, data.normaliser)
        others["random"] = others["random"]._replace(sets=random)
    clock.spent("baselines")
    mine = Baseline("scoring", sets, at_learned_rate(scorer.protocol, distilled))
    accuracy = scorer.score(*(baseline("full") if setup.method == "full" else mine))
    clock.spent("evaluate")
    baselines = {name: scorer.score(*others[name]) if name in others else None for name in BASELINES}
    clock.spent("baselines")
    # Only now is the card complete. A run that is interrupted before has saved the same images with no score yet.
    _save(workdir, distilled.with_card(score=None if setup.method == "full" else accuracy))
    result = {
        "method": setup.method,
        "dataset": setup.dataset,
        "ipc": setup.spec.ipc,
        "factor": setup.spec.parameterisation.factor,
        "net": arguments.choice_name("net", setup.spec.net),
        "seed": setup.seed,
        "bytes": distilled.nbytes,
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


def _save(workdir: Workdir, distilled: DistilledSet) -> None:
    if not hosts.is_first():
        return
    with replaced(workdir.path / DISTILLED) as temporary:
        distilled.save(temporary)
    with replaced(workdir.path / GRID) as temporary:
        draw(distilled).save(temporary)


main = partial(run_command, run, together=True)
