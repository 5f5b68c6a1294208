"""The phases of an analysis. Each phase resumes after a killed process."""

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
from distill_jax.cli.ablation.measure import Runs, measure
from distill_jax.cli.output.display import Bar
from distill_jax.cli.process.clock import Clock
from distill_jax.cli.process.interrupts import Interrupts
from distill_jax.cli.request.choices import choice_name
from distill_jax.cli.session.pool import KeptMembers
from distill_jax.cli.session.resume import saving
from distill_jax.cli.session.score import interval, summary
from distill_jax.cli.session.setup import Setup
from distill_jax.cli.session.workdir import CHECKPOINTS, MEMBERS, POINTS, Workdir
from distill_jax.contracts import Selector
from distill_jax.distill import Problem, init_state
from distill_jax.run import Block, host_loop
from distill_jax.spec import as_arrays, to_json
from distill_jax.types import Model


class Inputs(NamedTuple):
    """The inputs of every phase."""

    setup: Setup
    problem: Problem
    """the problem with one live model, on a sample of the images of each class"""
    selectors: Mapping[str, Selector]
    """the selectors to compare, including random and representative"""
    options: Any
    """the options of the runner, ``analyse.Analyse``"""
    workdir: Workdir
    interrupts: Interrupts


def batches(inputs: Inputs) -> dict[str, Any]:
    """Measure the distance of selections from their class over inner steps, and gradient norms after the last step.

    ``distances`` has ``mean`` and ``cover`` [T][C] of each selector (see ``analysis.Distances``). ``norms`` has the
    mean gradient norm of each ``class`` [C], of tenths of the class ``by_distance`` from its centre, nearest first
    [C][10], and of each image ``selected`` by each selector in the last step [C][B].
    """
    problem, net, data = inputs.problem, inputs.problem.net, inputs.problem.data
    walk = _walked(inputs)
    norms = np.asarray(analysis.gradient_norms(net, walk.model, data))
    away = np.asarray(analysis.centre_distances(net, walk.model, data))
    index = [np.asarray(rows)[:count] for rows, count in zip(data.index, data.counts.tolist(), strict=True)]
    tenths = min(10, *map(len, index))
    nearest_first = (norms[rows[np.argsort(away[rows])]] for rows in index)
    return {
        "distances": {
            name: {measure: np.asarray(of[s]).tolist() for measure, of in walk.seen._asdict().items()}
            for s, name in enumerate(inputs.selectors)
        },
        "norms": {
            "class": [float(norms[rows].mean()) for rows in index],
            "by_distance": [[float(a.mean()) for a in np.array_split(of, tenths)] for of in nearest_first],
            "selected": {
                name: norms[np.take_along_axis(np.asarray(problem.data.index), np.asarray(rows), axis=1)].tolist()
                for name, rows in zip(inputs.selectors, walk.rows, strict=True)
            },
        },
    }


def _walked(inputs: Inputs) -> analysis.Walk:
    """Return the walk after its last step, resuming from the last checkpoint if there is one."""
    problem, selectors, steps = inputs.problem, tuple(inputs.selectors.values()), inputs.options.walk
    checkpoints = Checkpoints(inputs.workdir.path / CHECKPOINTS)
    begin = partial(analysis.begin_walk, problem, selectors, steps)
    restored = checkpoints.restore(jax.eval_shape(begin))
    walk, start = (begin(), 0) if restored is None else (restored.state, restored.step)
    with Bar("following a network", steps, start, unit="steps") as bar:

        def advance(walk: analysis.Walk, first: int, count: int) -> tuple[analysis.Walk, np.ndarray]:
            return jax.block_until_ready(analysis.walk_on(problem, selectors, walk, first, count)), np.zeros(0)

        def show(block: Block) -> None:
            bar.update(block.end)

        return host_loop(advance, walk, start, steps, [show, saving(checkpoints, steps, inputs.interrupts)])


def models(inputs: Inputs) -> dict[str, Any] | None:
    """Compare the gradients of the synthetic images under models of each kind: their pairwise ``cosine``, and their
    ``length``, averaged over classes. Return None if the objective needs targets, which random models lack."""
    problem = inputs.problem
    if inputs.setup.spec.objective.needs_target:
        return None
    select_key, match_key = jax.random.split(jax.random.fold_in(inputs.setup.keys.score, 0))
    synthetic = init_state(problem).synthetic
    selection = draw_distinct(select_key, problem.data, inputs.selectors["random"].batch)
    found = {}
    for name, kind in _kinds(inputs).items():
        each = [tree.take(kind, k) for k in range(jax.tree.leaves(kind.params)[0].shape[0])]
        if len(each) < 2:  # a pool of one
            continue
        gradients = []
        for model in each:
            gradients.append(analysis.matching_gradient(problem, model, synthetic, selection, match_key))
            inputs.interrupts.check()
        stacked = tree.stack(gradients)
        cosine = summary(analysis.pseudo_values(np.asarray(analysis.cosines(stacked))))
        length = summary(np.linalg.norm(np.asarray(stacked), axis=2).mean(axis=1).tolist())
        found[name] = {"models": len(each), "cosine": cosine, "interval": interval(cosine), "length": length}
    return found


def _kinds(inputs: Inputs) -> dict[str, Model]:
    """Return Model[K] of each kind: random, sampled by the method, perturbed copies of one of these, and late."""
    spec, problem, count = inputs.setup.spec, inputs.problem, inputs.options.networks
    random_key, drawn_key, perturb_key = jax.random.split(jax.random.fold_in(inputs.setup.keys.score, 1), 3)
    drawn = analysis.distinct_models(problem, count, drawn_key)
    source = choice_name("models", spec.models)
    kinds = {"random": RandomInit().sample(problem.net, None, count, 0, random_key)}
    if not isinstance(spec.models, RandomInit):
        kinds[source] = drawn
    if not isinstance(spec.perturb, NoPerturbation):
        kinds[f"{source}, one perturbed"] = analysis.perturbed_copies(problem, tree.take(drawn, 0), count, perturb_key)
    if inputs.options.late_epochs:
        kinds[f"late, {inputs.options.late_epochs} epochs"] = _late(inputs)
    return kinds


def _late(inputs: Inputs) -> Model:
    """Return Model[K] trained for many epochs on the sample of images. Finished members are kept on disk."""
    setup, options = inputs.setup, inputs.options
    own = setup.spec.models if isinstance(setup.spec.models, EarlyStagePool) else EarlyStagePool()
    source = replace(own, size=options.networks, epochs=options.late_epochs, ahead=0)
    about = {**setup.describe_pool(), "models": to_json(source), "seed": setup.seed, "images": options.images}
    kept = KeptMembers(inputs.workdir.path / MEMBERS, about, Clock())
    with Bar("training late models", 1, unit="epochs") as bar:

        def tick(done: int, total: int) -> None:
            bar.update(done, total=total)
            inputs.interrupts.check()

        late, key = as_arrays(replace(setup.spec, models=source)).models, jax.random.fold_in(setup.keys.pool, 1)
        return late.pretrain(inputs.problem.net, inputs.problem.data, key, tick, kept)


def pretraining(swept: Sequence[Setup], inputs: Inputs) -> dict[str, Any] | None:
    """Measure the accuracy of the method on held-out training images, in percent, by epochs of pretraining:
    ``accuracy`` [points][seeds]. Return None if no epochs are given."""
    if not swept:
        return None
    asked = inputs.options
    runs = Runs(range(asked.seed, asked.seed + asked.seeds), asked.repeats)
    accuracies = []
    for number, setup in enumerate(swept):
        point = inputs.workdir.subfolder(f"{POINTS}/{number}")
        rows = measure(setup, runs, {}, {}, point, None, inputs.interrupts)
        accuracies.append([row.accuracy for row in rows])
    return {"epochs": list(asked.pretraining_epochs), "accuracy": accuracies}
