"""DD-Ranking's scores of a distilled set: everything that they need is trained here, for one network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax.augment import NoAugment
from distill_jax.cli.score import Scorer, random_rows, summary
from distill_jax.distilled import DistilledSet
from distill_jax.evaluation import Protocol, Sets
from distill_jax.ranking import (
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
)
from distill_jax.teachers import probabilities
from distill_jax.train import real_set
from distill_jax.types import Array, RealData, TrainSet


def dd_ranking_scores(
    scorer: Scorer, distilled: DistilledSet, data: RealData, repeats: int, key: Array, full_epochs: int | None = None
) -> dict[str, Any]:
    """{full_epochs; accuracies: of every training, percent; scores: hlr, ior, lrs, ars, each a summary of R fractions}.

    Random images are as many as are stored. Where the set has soft labels they get theirs from the networks that were
    trained on all data, which is what the set's own labels have to beat. A set with a learning rate of its own is
    trained with that. ``full_epochs``: on all data, where not as many as the protocol says.
    """
    protocol, soft = scorer.protocol, distilled.soft is not None
    own = replace(protocol, rate=distilled.card.get("rate") or protocol.rate)
    longest = replace(protocol, epochs=full_epochs or protocol.epochs)
    full = scorer.train("all images", Sets.same(real_set(data), repeats), longest)

    drawn = random_rows(data, len(distilled.images) // distilled.classes, repeats, key)
    images = scorer.normaliser.to_network(data.images[drawn.reshape(-1)])
    targets = jax.nn.one_hot(data.labels[drawn.reshape(-1)], data.classes)
    if soft:
        targets = jnp.asarray(probabilities(scorer.net, full, images))

    # One store for all images, so that trainings that differ in nothing else are one compiled program.
    x, _ = distilled.arrays()
    both = jnp.concatenate([x, images])
    rows = jnp.arange(len(both), dtype=jnp.int32)
    store, hard = (
        TrainSet(both, jnp.concatenate([each.targets(), targets])) for each in (distilled, distilled.with_soft(None))
    )
    mine, others = jnp.tile(rows[: len(x)], (repeats, 1)), rows[len(x) :].reshape(drawn.shape)

    def scored(what: str, store: TrainSet, rows: Array, protocol: Protocol, augment: bool = True) -> dict[str, Any]:
        return scorer.score(what, Sets(store, rows), protocol if augment else replace(protocol, augment=NoAugment()))

    accuracies = {
        "full": scorer.tested(full),
        "distilled": scored("distilled", store, mine, own),
        "random": scored("random", store, others, protocol),
        "distilled_plain": scored("distilled, not augmented", store, mine, own, augment=False),
        "random_plain": scored("random, not augmented", store, others, protocol, augment=False),
    }
    # Only soft labels make a difference here.
    accuracies["distilled_hard"] = (
        scored("distilled, hard labels", hard, mine, own) if soft else accuracies["distilled"]
    )

    of = {name: np.asarray(accuracy["per_repeat"]) / 100 for name, accuracy in accuracies.items()}
    hlr = hard_label_recovery(of["full"], of["distilled_hard"])
    ior = improvement_over_random(of["distilled"], of["random"])
    plain = improvement_over_random(of["distilled_plain"], of["random_plain"])
    scores = {"hlr": hlr, "ior": ior, "lrs": label_robust_score(hlr, ior), "ars": augmentation_robust_score(ior, plain)}
    return {
        "full_epochs": longest.epochs,
        "accuracies": accuracies,
        "scores": {name: summary(score.tolist()) for name, score in scores.items()},
    }
