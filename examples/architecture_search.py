"""Architecture search on a distilled set: does it rank networks in the same order as all real images do?

    python -m experiments.distill acc_dd digits --ipc 10 --workdir runs/digits10
    python examples/architecture_search.py runs/digits10/distilled.npz

Trains ConvNets of several depths, widths, norms and poolings on the distilled set, on an equal number of random real
images, and on all real images. Compares the test accuracies with Spearman's rank correlation.
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from random import Random

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from scipy.stats import spearmanr
from tyro.conf import Positional

from distill_jax.augment import Siamese
from distill_jax.cli.process.backend import compile_faster
from distill_jax.data import Dataset, load
from distill_jax.distilled import DistilledSet
from distill_jax.evaluation import Protocol, test_accuracies, train_networks
from distill_jax.nets import ConvNet
from distill_jax.train_many import Sets
from distill_jax.types import TrainSet

CANDIDATES = [
    ConvNet(depth, width, norm, "relu", pooling)
    for depth, width, norm, pooling in product((1, 2, 3), (8, 16, 32), ("instance", "batch", "none"), ("avg", "max"))
]


@dataclass(frozen=True)
class Options:
    path: Positional[Path]
    """path of a distilled.npz"""
    dataset: str = "digits"
    networks: int = 20
    """number of architectures, drawn at random from all combinations"""
    repeats: int = 2
    """number of networks per architecture and set, each with its own seed and its own random images"""
    epochs: int = 10
    """number of epochs; on every set, an epoch has as many images as the real training set"""


def training_sets(distilled: DistilledSet, data: Dataset, repeats: int) -> Sets:
    """Return ``repeats`` copies of the distilled set, ``repeats`` sets of random images and ``repeats`` copies of the
    real set, in this order. Small sets repeat their images, so that one compiled program can train on any set."""
    few, rng = distilled.arrays()[0], np.random.default_rng(0)
    images = np.concatenate([few, distilled.prepared(data.x_train)])
    targets = np.concatenate([distilled.targets(), np.eye(data.classes, dtype=np.float32)[data.y_train]])
    real = len(few) + np.arange(len(data.x_train))
    by_class = [real[data.y_train == c] for c in range(data.classes)]
    rows = [np.arange(len(few))] * repeats
    rows += [np.ravel([rng.choice(own, len(few) // data.classes) for own in by_class]) for _ in range(repeats)]
    rows += [real] * repeats
    return Sets(
        TrainSet(jnp.asarray(images), jnp.asarray(targets)), jnp.asarray([np.resize(r, len(real)) for r in rows])
    )


def main(options: Options) -> None:
    compile_faster()  # compiling twenty networks takes most of the time
    distilled, data = DistilledSet.load(options.path), load(options.dataset)
    sets = training_sets(distilled, data, options.repeats)
    protocol = Protocol("search", options.epochs, rate=0.03, cutmix=0.0, augment=Siamese("crop"))
    normaliser = distilled.normaliser
    accuracies = []
    print("| depth | width | norm | pooling | distilled | random | real |\n|---|---|---|---|---|---|---|")
    for candidate in Random(0).sample(CANDIDATES, options.networks):
        net = candidate.build(data.shape, data.classes)
        models = train_networks(net, protocol, sets, jax.random.key(0), normaliser)
        percent = test_accuracies(net, models, data.test_arrays(), normaliser)
        accuracies.append(np.reshape(percent, (3, options.repeats)))
        means = accuracies[-1].mean(axis=1).round(1)
        row = [candidate.depth, candidate.width, candidate.norm, candidate.pooling, *means]
        print("|", " | ".join(map(str, row)), "|", flush=True)
    few, random, real = np.array(accuracies).transpose(1, 2, 0)  # each [repeats, networks]
    print(f"\nRank correlation with all real images, over {options.networks} networks:")
    print(f"- distilled, {options.repeats} repeats: {correlation(few.mean(0), real.mean(0)):.2f}")
    print(f"- random, {options.repeats} repeats: {correlation(random.mean(0), real.mean(0)):.2f}")
    if options.repeats > 1:
        print(f"- real, one repeat against the mean of the other repeats: {correlation(real[0], real[1:].mean(0)):.2f}")


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.asarray(spearmanr(a, b))[0])


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
