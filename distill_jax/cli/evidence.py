"""The figures of an analysis, phase by phase; each goes on where a killed process left it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from distill_jax import analysis, tree
from distill_jax.axes.models import EarlyStagePool, RandomInit
from distill_jax.axes.perturb import NoPerturbation
from distill_jax.axes.selector import draw_distinct
from distill_jax.checkpoint import Checkpoints
from distill_jax.cli import ablate, arguments
from distill_jax.cli.display import Bar
from distill_jax.cli.process import Interrupts
from distill_jax.cli.resume import saving
from distill_jax.cli.score import interval, summary
from distill_jax.cli.setup import KeptMembers, Setup
from distill_jax.cli.workdir import CHECKPOINTS, MEMBERS, POINTS, Workdir
from distill_jax.contracts import Selector
from distill_jax.distill import Problem, init_state
from distill_jax.run import Block, host_loop
from distill_jax.spec import as_arrays, to_json
from distill_jax.types import Model


class Inputs(NamedTuple):
    """What every phase works on."""

    setup: Setup
    problem: Problem
    """of one live model, on the images that stand for the classes"""
    selectors: Mapping[str, Selector]
    """the selections that are compared, random and representative among them"""
    options: Any
    """the runner's, ``analyse.Analyse``"""
    workdir: Workdir
    interrupts: Interrupts


def batches(job: Inputs) -> dict[str, Any]:
    """Distances of selections from their classes over inner steps, and gradient norms at the end of them.

    ``distances``: of each selector, ``mean`` and ``cover`` [T][C] (see ``analysis.Distances``). ``norms``: the mean
    gradient norm of each ``class`` [C] and of its tenths ``by_distance`` [C][10] from the centre, nearest first, and
    the norm of each image ``selected`` [C][B] by each selector in the last step.
    """
    problem, net, data = job.problem, job.problem.net, job.problem.data
    walk = _walked(job)
    norms = np.asarray(analysis.gradient_norms(net, walk.model, data))
    away = np.asarray(analysis.centre_distances(net, walk.model, data))
    index = [np.asarray(rows)[:count] for rows, count in zip(data.index, data.counts.tolist(), strict=True)]
    tenths = min(10, *map(len, index))
    nearest_first = (norms[rows[np.argsort(away[rows])]] for rows in index)
    return {
        "distances": {
            name: {measure: np.asarray(of[s]).tolist() for measure, of in walk.seen._asdict().items()}
            for s, name in enumerate(job.selectors)
        },
        "norms": {
            "class": [float(norms[rows].mean()) for rows in index],
            "by_distance": [[float(a.mean()) for a in np.array_split(of, tenths)] for of in nearest_first],
            "selected": {
                name: norms[np.take_along_axis(np.asarray(problem.data.index), np.asarray(rows), axis=1)].tolist()
                for name, rows in zip(job.selectors, walk.rows, strict=True)
            },
        },
    }


def _walked(job: Inputs) -> analysis.Walk:
    """The walk after its last step, from the last checkpoint if there is one."""
    problem, selectors, steps = job.problem, tuple(job.selectors.values()), job.options.walk
    checkpoints = Checkpoints(job.workdir.path / CHECKPOINTS)
    begin = partial(analysis.begin_walk, problem, selectors, steps)
    restored = checkpoints.restore(jax.eval_shape(begin))
    walk, start = (begin(), 0) if restored is None else (restored.state, restored.step)
    with Bar("following a network", steps, start, unit="steps") as bar:

        def advance(walk: analysis.Walk, first: int, count: int) -> tuple[analysis.Walk, np.ndarray]:
            return jax.block_until_ready(analysis.walk_on(problem, selectors, walk, first, count)), np.zeros(0)

        def show(block: Block) -> None:
            bar.update(block.end)

        return host_loop(advance, walk, start, steps, [show, saving(checkpoints, steps, job.interrupts)])


def models(job: Inputs) -> dict[str, Any] | None:
    """Of each kind of models, how alike the gradients are that they give the synthetic images (``cosine``, over pairs),
    and how large (``length``, over models, the mean over classes). None where the objective asks for targets, which
    random models have none of.
    """
    problem = job.problem
    if job.setup.spec.objective.needs_target:
        return None
    select_key, match_key = jax.random.split(jax.random.fold_in(job.setup.keys.score, 0))
    synthetic = init_state(problem).synthetic
    selection = draw_distinct(select_key, problem.data, job.selectors["random"].batch)
    found = {}
    for name, kind in _kinds(job).items():
        each = [tree.take(kind, k) for k in range(jax.tree.leaves(kind.params)[0].shape[0])]
        if len(each) < 2:  # a pool of one
            continue
        gradients = []
        for model in each:
            gradients.append(analysis.matching_gradient(problem, model, synthetic, selection, match_key))
            job.interrupts.check()
        stacked = tree.stack(gradients)
        cosine = summary(analysis.pseudo_values(np.asarray(analysis.cosines(stacked))))
        length = summary(np.linalg.norm(np.asarray(stacked), axis=2).mean(axis=1).tolist())
        found[name] = {"models": len(each), "cosine": cosine, "interval": interval(cosine), "length": length}
    return found


def _kinds(job: Inputs) -> dict[str, Model]:
    """Model[K] of each kind: random, as the method draws them, copies of one of those perturbed, late."""
    spec, problem, count = job.setup.spec, job.problem, job.options.networks
    random_key, drawn_key, perturb_key = jax.random.split(jax.random.fold_in(job.setup.keys.score, 1), 3)
    drawn = analysis.distinct_models(problem, count, drawn_key)
    source = arguments.choice_name("models", spec.models)
    kinds = {"random": RandomInit().sample(problem.net, None, count, 0, random_key)}
    if not isinstance(spec.models, RandomInit):
        kinds[source] = drawn
    if not isinstance(spec.perturb, NoPerturbation):
        kinds[f"{source}, one perturbed"] = analysis.perturbed_copies(problem, tree.take(drawn, 0), count, perturb_key)
    if job.options.late_epochs:
        kinds[f"late, {job.options.late_epochs} epochs"] = _late(job)
    return kinds


def _late(job: Inputs) -> Model:
    """Model[K], trained on the images that stand for the classes. Members that are finished are kept."""
    setup, options = job.setup, job.options
    own = setup.spec.models if isinstance(setup.spec.models, EarlyStagePool) else EarlyStagePool()
    source = replace(own, size=options.networks, epochs=options.late_epochs, ahead=0)
    about = {**setup.describe_pool(), "models": to_json(source), "seed": setup.seed, "images": options.images}
    kept = KeptMembers(job.workdir.path / MEMBERS, about)
    with Bar("training late models", 1, unit="epochs") as bar:

        def tick(done: int, total: int) -> None:
            bar.update(done, total=total)
            job.interrupts.check()

        late, key = as_arrays(replace(setup.spec, models=source)).models, jax.random.fold_in(setup.keys.pool, 1)
        return late.pretrain(job.problem.net, job.problem.data, key, tick, kept)


def pretraining(swept: Sequence[Setup], job: Inputs) -> dict[str, Any] | None:
    """Percent of the held-out training images that networks trained on the method's set classify, by epochs of
    pretraining: ``accuracy`` [points][seeds]; None where no epochs are asked for."""
    if not swept:
        return None
    asked = job.options
    runs = ablate.Ablate(asked.method, asked.dataset, seed=asked.seed, seeds=asked.seeds, repeats=asked.repeats)
    accuracies = []
    for number, setup in enumerate(swept):
        point = job.workdir.subfolder(f"{POINTS}/{number}")
        rows = ablate.measure(setup, runs, {}, {}, point, None, job.interrupts)
        accuracies.append([row.accuracy for row in rows])
    return {"epochs": list(asked.pretraining_epochs), "accuracy": accuracies}
