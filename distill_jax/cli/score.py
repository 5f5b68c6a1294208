"""Accuracies: of a distilled set, and of what it is compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax.axes.selector import draw_distinct
from distill_jax.cli.display import Bar
from distill_jax.cli.process import Interrupts
from distill_jax.evaluation import Protocol, Sets, matched_epochs, test_accuracies, train_networks
from distill_jax.run import Block
from distill_jax.teachers import AT_ONCE, probabilities
from distill_jax.train import real_train_set
from distill_jax.types import Array, Model, Net, Normaliser, RealData, RequestError, TrainSet


class Scorer(NamedTuple):
    """How sets are scored: what is trained on them, and what it is tested on."""

    net: Net
    protocol: Protocol
    test: tuple[Array, Array]
    """uint8 [N, H, W, c], int32 [N]"""
    normaliser: Normaliser
    key: Array
    interrupts: Interrupts
    teachers: Model | None = None
    """Model[P]: who labels random images, where they are compared with soft labels"""

    def train(self, what: str, sets: Sets, protocol: Protocol | None = None) -> Model:
        """One network on each of the R ``sets``: Model[R]. ``what`` they are is shown while it lasts."""
        protocol = protocol or self.protocol
        with Bar(what, protocol.passes, unit="epochs") as bar:

            def watch(block: Block) -> None:
                bar.update(block.end)
                self.interrupts.check()

            return train_networks(self.net, protocol, sets, self.key, self.normaliser, [watch])

    def tested(self, models: Model) -> dict[str, Any]:
        """The accuracies of ``models`` [R, ...] on the test images."""
        return summary(test_accuracies(self.net, models, self.test, self.normaliser))

    def score(self, what: str, sets: Sets, protocol: Protocol | None = None) -> dict[str, Any]:
        """Train one network on each of the R ``sets`` and test them."""
        return self.tested(self.train(what, sets, protocol))


def summary(per_repeat: list[float]) -> dict[str, Any]:
    """Percent. ``std`` is the standard deviation of the sample (divisor R - 1), None for a single repeat."""
    std = float(np.std(per_repeat, ddof=1)) if len(per_repeat) > 1 else None
    return {"mean": float(np.mean(per_repeat)), "std": std, "per_repeat": per_repeat}


def interval(accuracy: Mapping[str, Any], confidence: float = 0.95) -> tuple[float, float] | None:
    """Where the mean over ever more repeats lies with this ``confidence`` (Student's t); None for fewer than three
    repeats."""
    repeats = len(accuracy["per_repeat"])
    if repeats < 3:
        return None
    from scipy.special import stdtrit  # takes a while to import, and few runs need it

    half = float(stdtrit(repeats - 1, (1 + confidence) / 2)) * accuracy["std"] / math.sqrt(repeats)
    return accuracy["mean"] - half, accuracy["mean"] + half


# ------------------------------------------------------------------ what it is compared with


@partial(jax.jit, static_argnums=(1, 2))
def random_rows(data: RealData, ipc: int, repeats: int, key: Array) -> Array:
    """int32 [R, C*I]: ``ipc`` real images of each class, drawn afresh for each repeat."""

    def draw(key: Array) -> Array:
        return jnp.take_along_axis(data.index, draw_distinct(key, data, ipc), axis=1).reshape(-1)

    return jax.lax.map(draw, jax.random.split(key, repeats))


class Baseline(NamedTuple):
    """What a distilled set is compared with; ``Scorer.score`` takes these fields."""

    what: str
    sets: Sets
    protocol: Protocol


def random_images(scorer: Scorer, data: RealData, ipc: int, decoded: int, repeats: int, key: Array) -> Baseline:
    """As many real images as are stored, whole ones."""
    return Baseline("random images", Sets(real_train_set(data), random_rows(data, ipc, repeats, key)), scorer.protocol)


def random_soft(scorer: Scorer, data: RealData, ipc: int, decoded: int, repeats: int, key: Array) -> Baseline:
    """As many real images as are stored, under what the teachers see in them: what soft labels gain by themselves.

    Raises RequestError where there are no teachers.
    """
    if scorer.teachers is None:
        raise RequestError("nobody labels the random images: leave out random_soft, or add --models early-stage")
    rows, store = random_rows(data, ipc, repeats, key), real_train_set(data)
    drawn = np.unique(rows)
    parts = np.split(drawn, range(AT_ONCE, len(drawn), AT_ONCE))
    shown = (scorer.normaliser.to_network(data.images[part]) for part in parts)
    soft = np.concatenate([probabilities(scorer.net, scorer.teachers, x) for x in shown])
    store = store._replace(targets=store.targets.at[drawn].set(soft))
    return Baseline("random images, soft labels", Sets(store, rows), scorer.protocol)


def all_images(scorer: Scorer, data: RealData, ipc: int, decoded: int, repeats: int, key: Array) -> Baseline:
    """All training data, for as many steps as the distilled set was trained on."""
    protocol = matched_epochs(scorer.protocol, decoded, len(data.labels))
    return Baseline("all images", Sets.same(real_train_set(data), repeats), protocol)


BASELINES: dict[str, Callable[[Scorer, RealData, int, int, int, Array], Baseline]] = {
    "random": random_images,
    "random_soft": random_soft,
    "full": all_images,
}
"""(scorer, data, ipc, number of decoded images of the distilled set, repeats, key) -> what to score"""


def share_store(sets: Sets, random: Sets, normaliser: Normaliser) -> tuple[Sets, Sets]:
    """Both from one store of images, so that one compiled program trains on either. ``random``: of uint8 images. Where
    they are of different sizes, both are as they were."""
    return _beside(sets, random, normaliser) if sets.rows.shape == random.rows.shape else (sets, random)


@jax.jit
def _beside(sets: Sets, random: Sets, normaliser: Normaliser) -> tuple[Sets, Sets]:
    drawn = random.rows.reshape(-1)
    shown = normaliser.to_network(random.store.images[drawn]), random.store.targets[drawn]
    store = TrainSet(*(jnp.concatenate(both) for both in zip(sets.store, shown, strict=True)))
    rows = sets.store.images.shape[0] + jnp.arange(drawn.size, dtype=jnp.int32)
    return Sets(store, sets.rows), Sets(store, rows.reshape(random.rows.shape))
