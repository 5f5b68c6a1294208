"""Measure the evidence that the papers argue with on your own data, for one method.

    python -m experiments.analyse acc_dd digits
    python -m experiments.analyse acc_dd digits --pretraining-epochs 0 1 2 4 8

Writes ``analysis.json`` (all figures), ``analysis.md`` (the figures in sentences) and ``analysis.png``. Test images are
not used.
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
from distill_jax.check_spec import check
from distill_jax.cli.evidence import phases
from distill_jax.cli.evidence.sentences import sentences
from distill_jax.cli.output import display
from distill_jax.cli.process.clock import environment
from distill_jax.cli.process.interrupts import Interrupts
from distill_jax.cli.process.run_command import run_command
from distill_jax.cli.request import arguments
from distill_jax.cli.request.choices import choice_name
from distill_jax.cli.session.pool import given_pool, has_pool, pool_for, pool_of_run
from distill_jax.cli.session.resume import Resumable, resumable
from distill_jax.cli.session.setup import Setup, set_up
from distill_jax.cli.session.workdir import (
    ANALYSIS,
    ANALYSIS_PLOT,
    ANALYSIS_TEXT,
    MEMBERS,
    Workdir,
    open_workdir,
)
from distill_jax.contracts import Selector
from distill_jax.distill import Problem
from distill_jax.spec import as_arrays
from distill_jax.types import RequestError, require_at_least


@dataclass(frozen=True)
class Analyse(Resumable, arguments.Common):
    """Measure on a data set the evidence that the papers argue with: how large the gradients of images near to and far
    from the centre of their class are, how well random and representative batches represent a class, and how much the
    gradients of random, early-stage, perturbed and late models differ. Test images are not used.
    """

    pool: arguments.Pool = None
    walk: Annotated[int, arg(name="steps")] = 50
    """inner steps for which one network is trained and observed"""
    samples: int = 0
    """images of each class in a batch; 0: the batch size of the method, at most half of the smallest class"""
    images: int = 500
    """random images of each class to measure on, at most"""
    networks: int = 5
    """models of each kind whose gradients are compared"""
    late_epochs: int = 20
    """epochs of training, on the images to measure on, that make a late model; 0: no late models"""
    pretraining_epochs: tuple[int, ...] = ()
    """numbers of pretraining epochs with which to run the method and score it on held-out training images; default:
    none, because each run takes minutes"""
    seeds: int = 3
    """runs at each number of pretraining epochs"""
    repeats: int = 3
    """networks trained to score each run with --pretraining-epochs"""

    def validate_options(self) -> None:
        super().validate_options()
        if self.walk < 1:
            raise RequestError(f"steps is {self.walk}: it must be at least 1")
        require_at_least(0, self, "samples", "late_epochs")
        require_at_least(1, self, "seeds", "repeats")
        require_at_least(2, self, "images", "networks")
        sweep.combinations({"pretraining_epochs": self.pretraining_epochs})  # refuses a repeated value


def run(argv: list[str]) -> None:
    request = arguments.request(argv, Analyse)
    options = request.options
    setup = set_up(request)
    if setup.spec.steps == 0:
        raise RequestError(f"{options.method} takes no steps, so there is nothing to analyse: choose another METHOD")
    selectors = _selectors(setup, options)
    swept = [_at_epochs(request, epochs) for epochs in options.pretraining_epochs]
    path = options.folder(f"analyse-{setup.folder}")
    options = replace(options, pool=pool_of_run(options, path))
    given = None if options.resume and has_pool(path) else given_pool(setup, options.pool)
    with open_workdir(path) as workdir, Interrupts() as interrupts, resumable("analyse", argv, path):
        workdir.begin(_config(setup, options), options.resume, options.overwrite)
        print(display.configuration(setup.title, setup.experiment), flush=True)
        data = setup.real_data()
        pool = pool_for(setup, workdir, data, given, interrupts)
        sample = analysis.part(data, options.images, setup.keys.draw)
        problem = Problem(as_arrays(replace(setup.spec, live=1)), setup.net, sample, pool, setup.keys.run)
        figures = _measure(phases.Inputs(setup, problem, selectors, options, workdir, interrupts), swept)
        text = _write(workdir, setup, figures)
    print(text)
    print(f"figures {path / ANALYSIS}, text {path / ANALYSIS_TEXT}, picture {path / ANALYSIS_PLOT}")


# ------------------------------------------------------------------ the request


def _selectors(setup: Setup, options: Analyse) -> dict[str, Selector]:
    """Return the selectors to compare: random, representative, and the method's own if it is neither of these.

    Raises RequestError if a class has too few images for one of the selectors, or for the method.
    """
    own, counts = setup.spec.selector, [min(count, options.images) for count in setup.data.counts.tolist()]
    if options.images < setup.spec.ipc:
        raise RequestError(f"images is {options.images}: give at least {setup.spec.ipc} (--ipc)")
    batch = options.samples or max(1, min(own.batch or RandomBatch().batch, min(counts) // 2))
    if batch > min(counts):
        least = min(counts)
        few = f"the analysis uses {least} images of class {counts.index(least)}"
        raise RequestError(f"samples is {batch}, but {few}: use --samples {least} or less")
    random = own if type(own) is RandomBatch else RandomBatch()
    representative = own if type(own) is Representative else Representative()
    selectors: dict[str, Selector] = {
        "random": replace(random, batch=batch),
        "representative": replace(representative, batch=batch),
    }
    if type(own) not in (RandomBatch, Representative, NoReal):
        selectors[choice_name("selector", own)] = own
    for selector in selectors.values():
        if selector.paired == own.paired:
            check(replace(setup.spec, selector=selector), setup.data.shape, counts)
        else:  # the analysis compares batches, so an objective that needs pairs does not matter
            selector.check(counts, setup.spec.ipc, setup.spec.parameterisation.factor)
    return selectors


def _at_epochs(request: arguments.Request[Analyse], epochs: int) -> Setup:
    """Set up the method with a pool pretrained for ``epochs`` epochs, withholding a tenth of the training images.

    The withheld images take the place of the test images.
    """
    spec = request.experiment.spec
    sweep.field_at(spec, "models.epochs")
    spec = sweep.replaced(spec, "models.epochs", epochs)
    return set_up(request._replace(experiment=replace(request.experiment, spec=spec)), eval_every=1)


def _config(setup: Setup, options: Analyse) -> dict[str, Any]:
    names = ("samples", "images", "networks", "late_epochs", "pretraining_epochs")
    runs = setup.describe_figures(seeds=options.seeds, repeats=options.repeats)
    pool = None if options.pool is None else str(options.pool)
    sizes = {name: getattr(options, name) for name in names}
    return {**setup.describe(), "pool": pool, "steps": options.walk, **sizes, **runs}


# ------------------------------------------------------------------ the figures


def _measure(inputs: phases.Inputs, swept: Sequence[Setup]) -> dict[str, Any]:
    """Return all figures. Each phase is saved as soon as it is finished."""
    figures = inputs.workdir.read(ANALYSIS) or _metadata(inputs)
    measured = {
        "batches": phases.batches,
        "models": phases.models,
        "pretraining": partial(phases.pretraining, swept),
    }
    for name, phase in measured.items():
        if name not in figures:
            figures[name] = phase(inputs)
            inputs.workdir.write(ANALYSIS, figures)
        inputs.interrupts.check()
    shutil.rmtree(inputs.workdir.path / MEMBERS, ignore_errors=True)
    return figures


def _metadata(inputs: phases.Inputs) -> dict[str, Any]:
    """Return the entries of ``analysis.json`` that say which method and data were measured."""
    setup, counts = inputs.setup, inputs.problem.data.counts.tolist()
    return {
        "schema": 1,
        "method": setup.method,
        "dataset": setup.dataset,
        **setup.part,
        "seed": setup.seed,
        "net": choice_name("net", setup.spec.net),
        "steps": inputs.options.walk,
        "samples": inputs.selectors["random"].batch,
        "images": [min(counts), max(counts)],
        "environment": environment(),
    }


def _write(workdir: Workdir, setup: Setup, figures: Mapping[str, Any]) -> str:
    """Write the text and the picture. Returns the text."""
    text = sentences(figures)
    page = f"# {setup.title}\n\n![all figures]({ANALYSIS_PLOT})\n\n{text}\n"
    workdir.write_text(ANALYSIS_TEXT, page)
    from distill_jax.cli.evidence.picture import draw  # matplotlib takes half a second to import

    title = f"{setup.method} on {display.last_part(setup.dataset)}"
    workdir.write_picture(ANALYSIS_PLOT, draw(title, figures))
    return text


main = partial(run_command, run)
