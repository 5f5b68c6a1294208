"""Class-incremental learning with a memory of distilled images, compared with a memory of random real images.

    python examples/continual_learning.py
    python examples/continual_learning.py --dataset npz:mnist.npz --recipe mnist --syn-lr 1e-4 --depth 3

The classes arrive in pairs. Half of each training batch consists of real images of the current pair, and half of images
from a memory, which holds a few images of every earlier class. After each pair, the network classifies test images of
all classes so far, without knowing their pair. The memory of a pair is made from the real images of that pair alone.
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
from distill_jax.train import NetworkSGD, Order, Pipeline, flatten, train
from distill_jax.types import Array, Model, Net, TrainSet


@dataclass(frozen=True)
class Options:
    dataset: str = "digits"
    recipe: str = "digits"
    ipc: int = 1
    """number of images per class in the memory"""
    seeds: int = 3
    """number of runs with each memory"""
    outer_steps: int = 8
    """number of outer steps of distillation, with 50 image updates each"""
    syn_lr: float = 2e-4
    """learning rate of the distilled images"""
    depth: int = 2
    width: int = 32
    steps: int = 200
    """number of training batches for each pair"""


def pairs(data: Dataset) -> list[Dataset]:
    """Return a data set for each pair of classes. All have the same size, so that they share one compiled program."""
    n = int(data.counts.min())
    rows = [np.flatnonzero(data.y_train == c)[:n] for c in range(data.classes)]
    both = [np.concatenate(rows[c : c + 2]) for c in range(0, data.classes - 1, 2)]
    parts = [(data.x_train[pair], data.y_train[pair] % 2) for pair in both]
    return [Dataset.from_arrays(data.name, x, y, x, y) for x, y in parts]


def distilled(experiment: Experiment, part: Dataset, seed: int) -> Array:
    """Return distilled images of ``part``, float32 [2, I, H, W, c] in [0, 1]."""
    images = distil(experiment.spec, part, seed).images
    return jnp.asarray(images).reshape(part.classes, -1, *part.shape)


def random_real(experiment: Experiment, part: Dataset, seed: int) -> Array:
    """Return random real images of ``part``, float32 [2, I, H, W, c] in [0, 1]."""
    net, key = experiment.spec.net.build(part.shape, part.classes), jax.random.key(seed)
    return RandomReal().images(net, net.init(key), part.real_data(), experiment.spec.ipc, 1, key)


@partial(jax.jit, static_argnums=(0, 1))
def learn(net: Net, experiment: Experiment, model: Model, store: TrainSet, rows: Array, test: Array, key: Array):
    """Train on the batches ``rows`` [steps, batch] of ``store``. Return the model and its predictions for ``test``."""
    protocol, optimiser = experiment.protocol, NetworkSGD(experiment.protocol.rate).transform()
    pipeline, order = Pipeline(rows.shape[1], protocol.cutmix, protocol.augment), Order(rows, jnp.ones(rows.shape))
    model = train(net, model, optimiser, optimiser.init(flatten(model.params)), store, order, pipeline, key)[0]
    return model, jnp.argmax(net.apply(model, test, train=False)[0].logits, axis=1)


def run(data: Dataset, experiment: Experiment, make: Callable | None, steps: int, seed: int) -> list[float]:
    """Return the percent accuracy on all classes so far after each pair. ``make`` makes the memory; None: no memory."""
    net, ipc = experiment.spec.net.build(data.shape, data.classes), experiment.spec.ipc
    key, rng, parts = jax.random.key(seed), np.random.default_rng(seed), pairs(data)
    normaliser = parts[0].real_data().normaliser  # later pairs are unknown when learning begins
    test, model, percent = normaliser.to_network(jnp.asarray(data.x_test)), net.init(key), []
    memory = jnp.zeros((data.classes, ipc, *data.shape))
    for t, part in enumerate(parts):
        key, count = jax.random.fold_in(key, t), len(part.x_train)
        images = jnp.concatenate([part.x_train / jnp.float32(255), memory.reshape(-1, *data.shape)])
        labels = np.concatenate([part.y_train + 2 * t, np.repeat(np.arange(data.classes), ipc)])
        rows = rng.integers(0, count, (steps, 64))
        if make and t:
            rows[:, 32:] = count + rng.integers(0, 2 * t * ipc, (steps, 32))
        store = TrainSet(normaliser.to_network(images), jax.nn.one_hot(labels, data.classes))
        model, predictions = learn(net, experiment, model, store, jnp.asarray(rows), test, key)
        percent.append(100 * float(np.mean((predictions == data.y_test)[data.y_test < 2 * t + 2])))
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
    for name, make in {"distilled": distilled, "random real": random_real, "none": None}.items():
        runs = np.array([run(data, experiment, make, options.steps, seed) for seed in range(options.seeds)])
        cells = (f"{mean:.1f} ± {std:.1f} |" for mean, std in zip(runs.mean(0), runs.std(0), strict=True))
        print(f"| {name} |", *cells, flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
