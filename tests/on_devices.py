"""Answers the questions of ``test_mesh.py`` in a separate process: one per argument. Prints the answers as JSON."""

from __future__ import annotations

import io
import json
import re
import shlex
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import scaling
from distill_jax import distill, mesh, sweep
from distill_jax.augment import NoAugment, Siamese
from distill_jax.axes.selector.rules import choose, representatives
from distill_jax.cli import distill as runner
from distill_jax.cli import explain
from distill_jax.cli.cost.memory import shapes
from distill_jax.cli.cost.shapes import real_shapes
from distill_jax.cli.process.backend import collect_garbage_rarely
from distill_jax.data import Dataset
from distill_jax.distill import init_state, inner_step, run_block
from distill_jax.evaluation import IDC_PROTOCOL, test_accuracies, train_networks
from distill_jax.nets import ConvNet
from distill_jax.platform import compiled_for
from distill_jax.recipes import resolve
from distill_jax.run import prepare, run
from distill_jax.spec import Spec
from distill_jax.train import real_train_set
from distill_jax.train_many import Sets, train_epochs
from tests import toy
from tests.tiny import TINY


def images(classes: int, side: int, each: int = 24) -> Dataset:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), each)
    pixels = rng.integers(0, 256, (len(labels), side, side, 3)).astype(np.uint8)
    return Dataset.from_arrays("random", pixels, labels, pixels[::4], labels[::4])


def small(method: str, ipc: int = 1, batch: int = 8, side: int = 8) -> Spec:
    spec = resolve(method, "generic", ipc=ipc, shape=(side, side, 3), factor=1 if method != "acc_dd" else None).spec
    changes: dict[str, Any] = {"net": ConvNet(1, 8), "outer_steps": 3, "inner_steps": 2}
    fields = {
        "models": {"size": 3, "epochs": 1, "start": 2, "batch": 16, "augment": NoAugment()},
        "selector": {"batch": batch},
        "augment": {"strategy": "crop"},
        "update": {"images": 32, "batch": 12, "epochs": 2, "augment": Siamese("color")},
        "objective": {"steps": 2},
    }
    for axis, values in fields.items():
        choice = getattr(spec, axis)
        known = {name: value for name, value in values.items() if name in vars(choice)}
        changes[axis] = replace(choice, **known)
    return replace(spec, **changes)


def one_sweep(method: str) -> dict[str, Any]:
    spec = replace(small(method), live=2 if method == "mtt" else 1)
    problem = mesh.replicated(prepare(spec, images(3, 8)))
    state = mesh.shard_state(mesh.replicated(toy.begun(problem)))
    threshold, mesh.MIN_PIXELS_TO_SUM = mesh.MIN_PIXELS_TO_SUM, 1  # small batches of the update are distributed too
    state = jax.jit(inner_step)(problem, state, jax.random.key(1))
    mesh.MIN_PIXELS_TO_SUM = threshold
    params = jax.tree.leaves(state.models.params)
    return {
        "devices": jax.device_count(),
        "images": np.asarray(state.synthetic.images).ravel()[::7].tolist(),
        "loss": float(state.loss),
        "params": [float(jnp.sum(leaf)) for leaf in params],
    }


def rest() -> dict[str, Any]:
    data = images(3, 8)
    problem = prepare(small("acc_dd"), data)
    key = jax.random.key(2)
    sets = Sets.same(real_train_set(problem.data), 3)
    protocol = replace(IDC_PROTOCOL, epochs=2)
    models = train_networks(problem.net, protocol, sets, key, problem.data.normaliser)
    one = jax.tree.map(lambda a: a[0], problem.pool)
    points = sweep.stacked(problem, [problem.spec, problem.spec], [problem.root])
    return {
        "pool": [float(jnp.sum(leaf)) for leaf in jax.tree.leaves(problem.pool)],
        "networks": [float(jnp.sum(leaf)) for leaf in jax.tree.leaves(models.params)],
        "accuracies": test_accuracies(problem.net, models, data.test_arrays(), problem.data.normaliser),
        "medoids": np.asarray(choose(representatives, problem.net, one, problem.data, 4, key, True)).tolist(),
        "swept": np.asarray(sweep.run(points, sweep.init_states(points)).synthetic.images).ravel()[::11].tolist(),
    }


def lone() -> list[tuple[bool, bool]]:
    """Map over one entry a function that shares its work and one that does not, twice each. Return whether the programs
    share work, and whether devices wait."""
    mesh.MIN_PIXELS_TO_SUM, threshold = 1, mesh.MIN_PIXELS_TO_SUM
    images, weights = jnp.ones((1, 16, 2, 2, 1)), jnp.ones(16)

    def weighted(batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        return jnp.einsum("nhwc,n->c", *batch)

    def shares(x: jax.Array) -> jax.Array:
        return mesh.batch_sum(weighted, (x, weights))

    programs = [
        str(jax.make_jaxpr(lambda xs, f=f: mesh.map_chunks(f, xs, 1))(images)) for f in (shares, weighted_alone) * 2
    ]
    mesh.MIN_PIXELS_TO_SUM = threshold
    return [("psum" in program, "cond[" in program) for program in programs]


def weighted_alone(x: jax.Array) -> jax.Array:
    return jnp.sum(x, axis=(0, 1, 2))


def collectives(method: str, classes: str, side: str, ipc: str, batch: str = "8") -> list[tuple[str, str]]:
    spec = replace(small(method, int(ipc), int(batch), int(side)), net=ConvNet(2, 8))
    each = [40] * int(classes)
    problem, state = shapes(spec, real_shapes(sum(each), (int(side), int(side), 3), each))
    problem, state = mesh.replicated(problem), mesh.shard_state(state)
    with compiled_for("gpu"):  # accelerators distribute batches of any size
        text = run_block.lower(problem, state, 1).compile().as_text() or ""
    kinds = "all-reduce|all-gather|collective-permute|all-to-all|reduce-scatter"
    found = re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", text)
    return sorted((kind, re.sub(r"\{[^}]*\}|/\*.*?\*/", "", shape)) for shape, kind in found)


def shares() -> dict[str, Any]:
    """Return the counts of ``benchmarks.scaling`` for ten classes."""
    sweep, update, *sizes = scaling.counts("digits", 10)
    return {"sweep": sweep.flops, "update": update.flops, "sizes": sizes}


def traces() -> list[int]:
    """Count the programs of a block, of epochs (one of pretraining, one of evaluation), and of a block of a sweep."""
    data = images(4, 8)
    spec = small("acc_dd")
    problem = prepare(replace(spec, models=replace(spec.models, size=2, epochs=3)), data)  # type: ignore[type-var]
    run(problem, init_state(problem))
    sets = Sets.same(real_train_set(problem.data), 3)
    train_networks(problem.net, replace(IDC_PROTOCOL, epochs=5), sets, jax.random.key(2), problem.data.normaliser)
    points = sweep.stacked(problem, [problem.spec, problem.spec], [problem.root])
    sweep.run(points, sweep.init_states(points))
    programs: list[Any] = [distill.run_block, train_epochs, sweep.run_block]
    return [program._cache_size() for program in programs]


def run_tiny(path: str, *more: str) -> int:
    return runner.main([*TINY, "--workdir", path, *more])


def explained() -> str:
    with redirect_stdout(io.StringIO()) as shown:
        assert explain.main(["acc_dd", "digits", "--net.width", "4"]) == 0
    return shown.getvalue()


QUESTIONS: dict[str, Callable[..., Any]] = {
    "sweep": one_sweep,
    "rest": rest,
    "lone": lone,
    "collectives": collectives,
    "traces": traces,
    "shares": shares,
    "distill": run_tiny,
    "explain": explained,
}

if __name__ == "__main__":
    collect_garbage_rarely()
    answers = []
    for what, *arguments in map(shlex.split, sys.argv[1:]):
        answers.append(QUESTIONS[what](*arguments))
    print(json.dumps(answers))
