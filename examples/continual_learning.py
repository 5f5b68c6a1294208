"""Compares a memory of distilled images with a memory of random real images in class-incremental learning.

    python examples/continual_learning.py
    python examples/continual_learning.py --dataset npz:mnist.npz --recipe mnist --syn-lr 1e-4 --depth 3

Classes arrive in pairs. One half of every batch has real images of the current pair, the other half has images from a
memory, which keeps a few images of every earlier class. After each pair the network is tested on all classes so far,
without knowing the pair of an image. The memory of a pair is made only from the real images of that pair.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from distill_jax import distil, load, resolve
from distill_jax.axes.init import RandomReal
from distill_jax.axes.optimiser import ClassByClassSGD
from distill_jax.data import Dataset
from distill_jax.nets import ConvNet
from distill_jax.recipes import Experiment
from distill_jax.train import NetworkSGD, Order, Pipeline, train
from distill_jax.types import Array, Model, Net, TrainSet


@dataclass(frozen=True)
class Options:
    dataset: str = "digits"
    recipe: str = "digits"
    ipc: int = 1
    """number of images per class in the memory"""
    seeds: int = 3
    outer_steps: int = 8
    """number of outer steps of distillation, with 50 image updates each"""
    syn_lr: float = 2e-4
    depth: int = 2
    width: int = 32
    steps: int = 200
    """number of training batches for each pair"""


def pairs(data: Dataset) -> list[Dataset]:
    """Return a data set for each pair of classes. Equal sizes allow one compiled program to serve all of them."""
    n = int(data.counts.min())
    rows = [np.flatnonzero(data.y_train == c)[:n] for c in range(data.classes)]
    both = [np.concatenate(rows[c : c + 2]) for c in range(0, data.classes - 1, 2)]
    parts = [(data.x_train[rows], data.y_train[rows] % 2) for rows in both]
    return [Dataset.from_arrays(data.name, x, y, x, y) for x, y in parts]


def distilled_memory(experiment: Experiment, part: Dataset, seed: int) -> Array:
    """Return distilled images of ``part``: float32 [2, I, H, W, c] in [0, 1]."""
    images = distil(experiment.spec, part, seed).images
    return jnp.asarray(images).reshape(part.classes, -1, *part.shape)


def random_memory(experiment: Experiment, part: Dataset, seed: int) -> Array:
    """Return random real images of ``part``: float32 [2, I, H, W, c] in [0, 1]."""
    net, key = experiment.spec.net.build(part.shape, part.classes), jax.random.key(seed)
    return RandomReal().images(net, net.init(key), part.real_data(), experiment.spec.ipc, 1, key)


@partial(jax.jit, static_argnums=(0, 1))
def fit_and_predict(
    net: Net, experiment: Experiment, model: Model, store: TrainSet, rows: Array, test: Array, key: Array
):
    """Train on the batches ``rows`` [steps, batch] of ``store``. Return the model and its predictions for ``test``."""
    protocol, optimiser = experiment.protocol, NetworkSGD(experiment.protocol.rate).transform()
    pipeline, order = Pipeline(rows.shape[1], protocol.cutmix, protocol.augment), Order(rows, jnp.ones(rows.shape))
    model = train(net, model, optimiser, optimiser.init(model.params), store, order, pipeline, key)[0]
    return model, jnp.argmax(net.apply(model, test, train=False)[0].logits, axis=1)


def accuracies(data: Dataset, experiment: Experiment, make: Callable | None, steps: int, seed: int) -> list[float]:
    """Return the accuracy in percent on all classes so far after each pair. ``make`` makes the memory (None: none)."""
    net, ipc = experiment.spec.net.build(data.shape, data.classes), experiment.spec.ipc
    key, rng, parts = jax.random.key(seed), np.random.default_rng(seed), pairs(data)
    normaliser = parts[0].real_data().normaliser  # the only statistics that exist when learning begins
    test, model, percent = normaliser.to_network(jnp.asarray(data.x_test)), net.init(key), []
    memory = jnp.zeros((data.classes, ipc, *data.shape))
    for t, part in enumerate(parts):
        key, new = jax.random.fold_in(key, t), len(part.x_train)
        images = jnp.concatenate([part.x_train / jnp.float32(255), memory.reshape(-1, *data.shape)])
        labels = np.concatenate([part.y_train + 2 * t, np.repeat(np.arange(data.classes), ipc)])
        rows = rng.integers(0, new, (steps, 64))
        if make and t:
            rows[:, 32:] = new + rng.integers(0, 2 * t * ipc, (steps, 32))
        store = TrainSet(normaliser.to_network(images), jax.nn.one_hot(labels, data.classes))
        model, predicted = fit_and_predict(net, experiment, model, store, jnp.asarray(rows), test, key)
        percent.append(100 * float(np.mean((predicted == data.y_test)[data.y_test < 2 * t + 2])))
        if make:
            memory = memory.at[2 * t : 2 * t + 2].set(make(experiment, part, 100 * seed + t))
    return percent


def main(options: Options) -> None:
    data = load(options.dataset)
    experiment = resolve("acc_dd", options.recipe, ipc=options.ipc, shape=data.shape, factor=1)
    net, optimiser = ConvNet(options.depth, options.width), ClassByClassSGD(options.syn_lr)
    spec = replace(experiment.spec, net=net, optimiser=optimiser, outer_steps=options.outer_steps, inner_steps=50)
    experiment = replace(experiment, spec=spec)
    print(f"| memory, {options.ipc} per class |", *(f"{c} classes |" for c in range(2, data.classes + 1, 2)))
    print("|---" * (data.classes // 2 + 1) + "|")
    for name, make in {"distilled": distilled_memory, "random real": random_memory, "none": None}.items():
        runs = np.array([accuracies(data, experiment, make, options.steps, seed) for seed in range(options.seeds)])
        cells = (f"{mean:.1f} ± {std:.1f} |" for mean, std in zip(runs.mean(0), runs.std(0), strict=True))
        print(f"| {name} |", *cells, flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
