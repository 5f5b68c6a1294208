"""Explains a run without computing it: shapes, parameter counts, arithmetic, bytes, and the published settings.

    python -m experiments.explain acc_dd cifar10 --ipc 10
    python -m experiments.explain acc_dd cifar10 --ipc 10 --device h100     # memory and time on an accelerator

Public data sets are not read, because their shapes are known. ``npz:``, ``folder:`` and ``hf:`` are read.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from distill_jax import mesh, tree
from distill_jax.augment import NoAugment
from distill_jax.axes.parameterisation import decoded_set
from distill_jax.axes.perturb import NoPerturbation
from distill_jax.cli.cost.compiler import ask, require
from distill_jax.cli.cost.devices import DEVICES
from distill_jax.cli.cost.jaxpr import Cost, cost
from distill_jax.cli.cost.memory import pretraining, shapes
from distill_jax.cli.cost.shapes import resolved
from distill_jax.cli.output import display
from distill_jax.cli.output.display import arithmetic, table
from distill_jax.cli.process.run_command import run_command
from distill_jax.distill import Problem, State, matching
from distill_jax.platform import compiled_for
from distill_jax.published import Comparison, compared, same
from distill_jax.recipes import Experiment
from distill_jax.spec import CHOICES, Spec, own_axes
from distill_jax.tree import nbytes
from distill_jax.types import PyTree, RealData, lookup


def run(argv: list[str]) -> None:
    # Nothing is computed here, and the CUDA wheels print long warnings on a machine without a driver.
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    options, recipe, experiment, data = resolved(argv)
    device = lookup("device", options.device, DEVICES) if options.device else None
    if device:
        require(device)
    height, width, channels = data.images.shape[1:]
    ipc = experiment.spec.ipc
    print(f"{options.method} on {options.dataset} (recipe {recipe}), {ipc} image{'s' * (ipc > 1)} per class\n")
    # One device does the arithmetic of all devices.
    with mesh.on_one_device(), compiled_for(device.platform) if device else nullcontext():
        print(explained(experiment, data))
    if device:
        print("", ask(device, argv), sep="\n")
    zca, own = options.dataset.startswith("zca:"), ", ".join(sorted(own_axes(experiment.spec)))
    settings = compared(options.method, recipe, experiment, (height, width, channels), data.classes, zca)
    print("", *_published(settings, recipe), sep="\n")
    if settings and own:
        print(f"\nSettings of your own choices ({own}) are not compared.")


def explained(experiment: Experiment, data: RealData) -> str:
    """Describe one inner step as text. ``data`` may consist of ``jax.ShapeDtypeStruct``."""
    problem, state = shapes(experiment.spec, data)
    choices = _choices(experiment.spec)
    device = table([("on the device", "bytes", ""), *_residents(problem, state)], numbers=True)
    if experiment.spec.steps == 0:
        return "\n".join(["The method takes no steps: it keeps the initial images.", "", *choices, "", *device])
    return "\n".join([*_walk(problem, state), "", *choices, "", *device, "", *_costs(problem, state)])


def _published(settings: list[Comparison], recipe: str) -> list[str]:
    """Format a comparison of the settings with the published ones."""
    if not settings:
        said = "No settings of a released code are on record for this method, data set, ipc and factor."
        return [said, f"distill_jax/recipes/{recipe}.py says where the numbers of the recipe come from."]

    def text(value: Any) -> str:
        return f"{value:g}" if isinstance(value, float) else display.shown(value)

    rows = [(one.name, text(one.ours), *_reference(one, text)) for one in settings]
    different = sum(not one.equal for one in settings)
    head = f"{len(settings) - different} of {len(settings)} settings are the published ones"
    return [head + (", the others are marked" if different else ""), "", *table([COLUMNS, *rows])]


COLUMNS = ("setting", "here", "published")


def _reference(one: Comparison, text: Callable[[Any], str]) -> tuple[str]:
    if one.paper is not None and not same(one.paper, one.released):
        return (f"paper {text(one.paper)}, release {text(one.released)}" + ("" if one.equal else "  <- differs"),)
    return ("equal" if one.equal else f"{text(one.released)}  <- differs",)


def _walk(problem: Problem, state: State) -> list[str]:
    """Draw the data flow of one inner step."""
    spec, data = problem.spec, problem.data
    stored = state.synthetic.images
    real = (stored.shape[0], spec.selector.batch) + data.images.shape[1:]
    decoded = jax.eval_shape(jax.vmap(spec.parameterisation.decode), stored)
    drawn = f" -> draw {spec.syn_batch} each" if 0 < spec.syn_batch < decoded.shape[1] else ""
    augment = "" if isinstance(spec.augment, NoAugment) else " --augment"
    source = f"pool [{spec.models.size}, ...] -> sample" if spec.models.size else "random init"
    moved = "" if isinstance(spec.perturb, NoPerturbation) else ", perturb"
    objective, optimiser = type(spec.objective).__name__, type(spec.optimiser).__name__
    clip = " -> clip" if spec.parameterisation.space == "pixel" else ""
    left = [
        f"{data.images.dtype} {_dims(data.images.shape)} -> select {_dims(real)}{augment}",
        f"images {_dims(stored.shape)} -> decode {_dims(decoded.shape)}{drawn}{augment}",
        f"{source}{moved} -> params [{spec.live}, ...]",
    ]
    right = [
        "\\",
        f"> {objective}(model k) -> mean over {spec.live} -> d/d images -> {optimiser}{clip}",
        f"/   params --{type(spec.update).__name__}--> next inner step",
    ]
    width = max(map(len, left)) + 3
    left = [text + (" " if not text.endswith("augment") else "") for text in left]
    return [a.ljust(width, "-") + b for a, b in zip(left, right, strict=True)]


def _choices(spec: Spec) -> list[str]:
    """Return a line for each choice that the method uses."""
    used = [axis for axis in CHOICES if spec.steps or axis not in display.OF_STEPS]
    return [f"{axis:17} {display.shown(getattr(spec, axis))}" for axis in used]


def _residents(problem: Problem, state: State) -> list[tuple[str, str, str]]:
    live, size = problem.spec.live, problem.spec.models.size
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.models.params)) // live
    pool = [("pool", display.size(nbytes(problem.pool)), f"{size} x {parameters:,} parameters")] if size else []
    return [
        ("real data", display.size(nbytes(problem.data)), f"{problem.data.images.shape[0]:,} images"),
        *pool,
        ("state", display.size(nbytes(state)), f"images, {live} x {parameters:,} parameters, momenta"),
    ]


def _costs(problem: Problem, state: State) -> list[str]:
    spec = problem.spec
    pool = cost(*pretraining(spec, problem.net, problem.data, problem.root)).times(spec.models.size)
    picked, sweep, update = (
        cost(part, problem, state, problem.root) for part in (_select, matching_sweep, model_update)
    )
    update = update.times(spec.live)
    # Every outer iteration begins with a selection. Steps that share a selection share its cost.
    inner, every = spec.inner_steps, min(spec.selector.every, spec.inner_steps)
    picked = picked.times(-(-inner // every))
    picked = Cost(picked.flops // inner, picked.bytes // inner, picked.open_loops)
    step = picked + sweep + update
    selects = type(spec.selector).__name__ + (f", every {every} steps" if every > 1 else "")
    rows = [
        ("selection", *_amounts(picked), selects),
        ("matching sweep", *_amounts(sweep), f"{state.synthetic.images.shape[0]} classes x {spec.live} models"),
        ("model update", *_amounts(update), type(spec.update).__name__),
        ("inner step", *_amounts(step), ""),
        ("the run", *_amounts(step.times(spec.steps)), f"{spec.outer_steps} outer x {spec.inner_steps} inner steps"),
        ("pool, before it", *_amounts(pool), ""),
    ]
    lines = table([("", "arithmetic", "bytes moved", ""), *(row for row in rows if row[1][:2] != "0 ")], numbers=True)
    said = ["", "Only convolutions and matrix products count; the operations between them can be fused."]
    if step.open_loops or pool.open_loops:
        said.append("A loop whose length depends on the data counts as one iteration.")
    return lines + said


def _select(problem: Problem, state: State, key: jax.Array) -> jax.Array:
    model = tree.take(state.models, 0)
    shown = problem.data.of_classes(problem.spec.classes)
    return problem.spec.selector.select(problem.net, model, shown, state.selector, state.step, key)[0]


def matching_sweep(problem: Problem, state: State, key: jax.Array) -> PyTree:
    selection = jnp.zeros((state.synthetic.images.shape[0], problem.spec.selector.batch), jnp.int32)
    return matching(problem, state.models, state.synthetic, selection, key)


def model_update(problem: Problem, state: State, key: jax.Array) -> PyTree:
    """Update one live model."""
    syn = decoded_set(problem.spec.parameterisation, state.synthetic, problem.data)
    model, memory = tree.take((state.models, state.update), 0)
    return problem.spec.update.update(problem.net, model, memory, problem.data, syn, key)


def _amounts(amount: Cost) -> tuple[str, str]:
    return arithmetic(amount.flops), display.size(amount.bytes)


def _dims(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


main = partial(run_command, run)
