"""Scores of a distilled set and of its baselines."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax.axes.selector import draw_distinct
from distill_jax.cli.output.display import Bar
from distill_jax.cli.process.interrupts import Interrupts
from distill_jax.evaluation import Protocol, matched_epochs, test_accuracies, train_networks
from distill_jax.run import Block
from distill_jax.teachers import probabilities
from distill_jax.train import real_train_set
from distill_jax.train_many import Sets
from distill_jax.types import Array, Model, Net, Normaliser, RealData, RequestError, TrainSet

AT_ONCE = 256
"""maximum number of images held in float32 at a time"""


class Scorer(NamedTuple):
    """Scores training sets: trains networks on them and tests the networks."""

    net: Net
    protocol: Protocol
    test: tuple[Array, Array]
    """uint8 [N, H, W, c], int32 [N]"""
    normaliser: Normaliser
    key: Array
    interrupts: Interrupts
    teachers: Model | None = None
    """Model[P]: the networks that label random images softly; None without soft labels"""

    def train(self, what: str, sets: Sets, protocol: Protocol | None = None) -> Model:
        """Train one network on each of the R ``sets``; return Model[R]. ``what`` labels the progress bar."""
        protocol = protocol or self.protocol
        with Bar(what, protocol.passes, unit="epochs") as bar:

            def watch(block: Block) -> None:
                bar.update(block.end)
                self.interrupts.check()

            return train_networks(self.net, protocol, sets, self.key, self.normaliser, [watch])

    def tested(self, models: Model) -> dict[str, Any]:
        """Return the accuracies of ``models`` [R, ...] on the test images."""
        return summary(test_accuracies(self.net, models, self.test, self.normaliser))

    def score(self, what: str, sets: Sets, protocol: Protocol | None = None) -> dict[str, Any]:
        """Train one network on each of the R ``sets`` and return their accuracies on the test images."""
        return self.tested(self.train(what, sets, protocol))


def summary(per_repeat: list[float]) -> dict[str, Any]:
    """Summarise accuracies in percent. ``std`` is the sample standard deviation (divisor R - 1), or None if R = 1."""
    std = float(np.std(per_repeat, ddof=1)) if len(per_repeat) > 1 else None
    return {"mean": float(np.mean(per_repeat)), "std": std, "per_repeat": per_repeat}


def interval(accuracy: Mapping[str, Any], confidence: float = 0.95) -> tuple[float, float] | None:
    """Return Student's t confidence interval of the mean, or None for fewer than three repeats."""
    repeats = len(accuracy["per_repeat"])
    if repeats < 3:
        return None
    from scipy.special import stdtrit  # imported here because it is slow and rarely needed

    half = float(stdtrit(repeats - 1, (1 + confidence) / 2)) * accuracy["std"] / math.sqrt(repeats)
    return accuracy["mean"] - half, accuracy["mean"] + half


# ------------------------------------------------------------------ baselines


@partial(jax.jit, static_argnums=(1, 2))
def random_rows(data: RealData, ipc: int, repeats: int, key: Array) -> Array:
    """Return int32 [R, C*I]: for each repeat, the positions of ``ipc`` random real images of each class."""

    def draw(key: Array) -> Array:
        return jnp.take_along_axis(data.index, draw_distinct(key, data, ipc), axis=1).reshape(-1)

    return jax.lax.map(draw, jax.random.split(key, repeats))


class Baseline(NamedTuple):
    """A baseline: the arguments of ``Scorer.score``."""

    what: str
    sets: Sets
    protocol: Protocol


def random_images(scorer: Scorer, data: RealData, ipc: int, decoded: int, repeats: int, key: Array) -> Baseline:
    """Return the baseline of random real images, as many as the set stores."""
    return Baseline("random images", Sets(real_train_set(data), random_rows(data, ipc, repeats, key)), scorer.protocol)


def random_soft(scorer: Scorer, data: RealData, ipc: int, decoded: int, repeats: int, key: Array) -> Baseline:
    """Return the baseline of random real images with soft labels of the teachers, which measures the gain of soft
    labels alone. Raise RequestError if there are no teachers."""
    if scorer.teachers is None:
        raise RequestError("random_soft needs trained networks as teachers: add --models early-stage, or leave it out")
    rows, store = random_rows(data, ipc, repeats, key), real_train_set(data)
    drawn = np.unique(rows)
    parts = np.split(drawn, range(AT_ONCE, len(drawn), AT_ONCE))
    shown = (scorer.normaliser.to_network(data.images[part]) for part in parts)
    soft = np.concatenate([probabilities(scorer.net, scorer.teachers, x) for x in shown])
    store = store._replace(targets=store.targets.at[drawn].set(soft))
    return Baseline("random images, soft labels", Sets(store, rows), scorer.protocol)


def all_images(scorer: Scorer, data: RealData, ipc: int, decoded: int, repeats: int, key: Array) -> Baseline:
    """Return the baseline of all training images, for as many training steps as on the distilled set."""
    protocol = matched_epochs(scorer.protocol, decoded, len(data.labels))
    return Baseline("all images", Sets.same(real_train_set(data), repeats), protocol)


BASELINES: dict[str, Callable[[Scorer, RealData, int, int, int, Array], Baseline]] = {
    "random": random_images,
    "random_soft": random_soft,
    "full": all_images,
}
"""the functions that make the baselines, from (scorer, data, ipc, number of decoded images, repeats, key)"""


def share_store(sets: Sets, random: Sets, normaliser: Normaliser) -> tuple[Sets, Sets]:
    """Put the images of ``sets`` and ``random``, which are uint8, into one store, so that one compiled program trains
    on both. If the sets have different sizes, return them unchanged."""
    return _share_store(sets, random, normaliser) if sets.rows.shape == random.rows.shape else (sets, random)


@jax.jit
def _share_store(sets: Sets, random: Sets, normaliser: Normaliser) -> tuple[Sets, Sets]:
    drawn = random.rows.reshape(-1)
    images = normaliser.to_network(random.store.images[drawn]), random.store.targets[drawn]
    store = TrainSet(*(jnp.concatenate(both) for both in zip(sets.store, images, strict=True)))
    rows = sets.store.images.shape[0] + jnp.arange(drawn.size, dtype=jnp.int32)
    return Sets(store, sets.rows), Sets(store, rows.reshape(random.rows.shape))
