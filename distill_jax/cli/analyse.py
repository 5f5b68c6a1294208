"""What the papers argue with, measured on your own data: a page of figures about one method.

    python -m experiments.analyse acc_dd digits
    python -m experiments.analyse acc_dd digits --pretraining-epochs 0 1 2 4 8

Writes ``analysis.json`` (all figures), ``analysis.md`` (what they say) and ``analysis.png``. Test images are not used.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

from tyro.conf import arg

from distill_jax import analysis, sweep
from distill_jax.axes.selector import NoReal, RandomBatch, Representative
from distill_jax.cli import arguments, display, evidence
from distill_jax.cli.evidence_text import sentences
from distill_jax.cli.process import Interrupts, environment, run_command
from distill_jax.cli.resume import Resumable, resumable
from distill_jax.cli.setup import Setup, given_pool, pool_for, set_up
from distill_jax.cli.workdir import (
    ANALYSIS,
    ANALYSIS_PLOT,
    ANALYSIS_TEXT,
    MEMBERS,
    Workdir,
    open_workdir,
)
from distill_jax.contracts import Selector
from distill_jax.distill import Problem
from distill_jax.spec import as_arrays, check, to_json
from distill_jax.types import RequestError, require_at_least


@dataclass(frozen=True)
class Analyse(Resumable, arguments.Common):
    """Measure on a data set what the papers argue with: how large the gradients of images near and far from the centre
    of their class are, how well random and representative batches stand for a class, and how differently random,
    early-stage, perturbed and late models move the synthetic images. Test images are not used.
    """

    pool: arguments.Pool = None
    walk: Annotated[int, arg(name="steps")] = 50
    """inner steps over which one network is followed"""
    samples: int = 0
    """images of each class in a batch; 0: as many as the method shows, at most half of the smallest class"""
    images: int = 500
    """random images that stand for each class, at most"""
    networks: int = 5
    """models of each kind whose gradients are compared"""
    late_epochs: int = 20
    """epochs on the images that stand for the classes, after which a model counts as late; 0: no late models"""
    pretraining_epochs: tuple[int, ...] = ()
    """epochs of pretraining at which the method is run and scored on held-out training images; default: none, because
    each is a run of minutes"""
    seeds: int = 3
    """runs at each number of pretraining epochs"""
    repeats: int = 3
    """networks that score each of those runs"""


def run(argv: list[str]) -> None:
    request = arguments.request(argv, Analyse)
    options = request.options
    _check(options)
    setup = set_up(request)
    if setup.spec.steps == 0:
        raise RequestError(f"{options.method} takes no steps, so there is nothing to analyse: choose another METHOD")
    selectors = _selectors(setup, options)
    swept = [_at_epochs(request, epochs) for epochs in options.pretraining_epochs]
    given, path = given_pool(setup, options.pool), options.folder(f"analyse-{setup.folder}")
    with open_workdir(path) as workdir, Interrupts() as interrupts, resumable("analyse", argv, path):
        workdir.begin(_config(setup, options), options.resume, options.overwrite)
        print(display.configuration(setup.title, setup.experiment), flush=True)
        data = setup.real_data()
        pool = pool_for(setup, workdir, data, given, interrupts)
        some = analysis.part(data, options.images, setup.keys.draw)
        problem = Problem(as_arrays(replace(setup.spec, live=1)), setup.net, some, pool, setup.keys.run)
        found = _found(evidence.Inputs(setup, problem, selectors, options, workdir, interrupts), swept)
        text = _write(workdir, setup, found)
    print(text)
    print(f"figures {path / ANALYSIS}, text {path / ANALYSIS_TEXT}, picture {path / ANALYSIS_PLOT}")


# ------------------------------------------------------------------ the request


def _check(options: Analyse) -> None:
    """Refuse options that make no sense."""
    options.check_folder()
    if options.walk < 1:
        raise RequestError(f"steps is {options.walk}: it must be at least 1")
    require_at_least(0, options, "samples", "late_epochs")
    require_at_least(1, options, "seeds", "repeats")
    require_at_least(2, options, "images", "networks")
    sweep.combinations({"pretraining_epochs": options.pretraining_epochs})  # refuses what is given twice


def _selectors(setup: Setup, options: Analyse) -> dict[str, Selector]:
    """The selections that are compared: random, representative and, where it is another one, the method's own.

    Raises RequestError where the images that stand for a class are too few for them, or for the method.
    """
    own, counts = setup.spec.selector, [min(count, options.images) for count in setup.data.counts.tolist()]
    batch = options.samples or max(1, min(own.batch or RandomBatch().batch, min(counts) // 2))
    if batch > min(counts):
        least = min(counts)
        few = f"class {counts.index(least)} is shown by {least} images"
        raise RequestError(f"samples is {batch}, but {few}: use --samples {least} or less")
    random = own if type(own) is RandomBatch else RandomBatch()
    representative = own if type(own) is Representative else Representative()
    found: dict[str, Selector] = {
        "random": replace(random, batch=batch),
        "representative": replace(representative, batch=batch),
    }
    if type(own) not in (RandomBatch, Representative, NoReal):
        found[arguments.choice_name("selector", own)] = own
    for selector in found.values():
        check(replace(setup.spec, selector=selector), setup.data.shape, counts)
    return found


def _at_epochs(request: arguments.Request[Analyse], epochs: int) -> Setup:
    """The method with a pool of so many epochs, on nine tenths of the training images, the rest in the test's place."""
    spec = request.experiment.spec
    sweep.field_at(spec, "models.epochs")
    spec = sweep.replaced(spec, "models.epochs", epochs)
    return set_up(request._replace(experiment=replace(request.experiment, spec=spec)), eval_every=1)


def _config(setup: Setup, options: Analyse) -> dict[str, Any]:
    names = ("samples", "images", "networks", "late_epochs", "pretraining_epochs")
    # Not under their own names, which a run may change when it is resumed: here figures depend on them.
    runs = {"outer_steps": setup.spec.outer_steps, "seeds": options.seeds, "repeats": options.repeats}
    runs |= {"protocol": to_json(setup.experiment.protocol), "labels": to_json(setup.spec.labels)}
    pool = None if options.pool is None else str(options.pool)
    asked = {name: getattr(options, name) for name in names}
    return {**setup.describe(), "pool": pool, "steps": options.walk, **asked, "runs": runs}


# ------------------------------------------------------------------ the figures


def _found(job: evidence.Inputs, swept: Sequence[Setup]) -> dict[str, Any]:
    """All figures; each phase is kept as soon as it is finished."""
    found = job.workdir.read(ANALYSIS) or _about(job)
    phases = {
        "batches": evidence.batches,
        "models": evidence.models,
        "pretraining": partial(evidence.pretraining, swept),
    }
    for name, phase in phases.items():
        if name not in found:
            found[name] = phase(job)
            job.workdir.write(ANALYSIS, found)
        job.interrupts.check()
    shutil.rmtree(job.workdir.path / MEMBERS, ignore_errors=True)
    return found


def _about(job: evidence.Inputs) -> dict[str, Any]:
    """What the figures are of."""
    setup, counts = job.setup, job.problem.data.counts.tolist()
    return {
        "schema": 1,
        "method": setup.method,
        "dataset": setup.dataset,
        **setup.part,
        "seed": setup.seed,
        "net": arguments.choice_name("net", setup.spec.net),
        "steps": job.options.walk,
        "samples": job.selectors["random"].batch,
        "images": [min(counts), max(counts)],
        "environment": environment(),
    }


def _write(workdir: Workdir, setup: Setup, found: Mapping[str, Any]) -> str:
    """Write text and picture; returns the text."""
    text = sentences(found)
    page = f"# {setup.title}\n\n![all figures]({ANALYSIS_PLOT})\n\n{text}\n"
    workdir.write_text(ANALYSIS_TEXT, page)
    from distill_jax.cli.evidence_plot import draw  # matplotlib takes half a second to import

    title = f"{setup.method} on {setup.dataset.rpartition('/')[2]}"
    workdir.write_picture(ANALYSIS_PLOT, draw(title, found))
    return text


main = partial(run_command, run)
