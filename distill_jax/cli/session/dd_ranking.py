"""DD-Ranking's scores of a distilled set for one architecture, including all trainings that they need."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from distill_jax.augment import NoAugment
from distill_jax.cli.session.score import Scorer, random_images, random_soft, share_store, summary
from distill_jax.distilled import DistilledSet
from distill_jax.evaluation import Protocol, repeated
from distill_jax.ranking import (
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
)
from distill_jax.train import real_train_set
from distill_jax.train_many import Sets
from distill_jax.types import Array, RealData


def dd_ranking_scores(
    scorer: Scorer, distilled: DistilledSet, data: RealData, repeats: int, key: Array, full_epochs: int | None = None
) -> dict[str, Any]:
    """Return {full_epochs; accuracies: percent, of every training; scores: hlr, ior, lrs, ars, summaries of R
    fractions}.

    The random images are as many as the stored images. If the set has soft labels, networks trained on all data label
    the random images. If the card has a learned rate, networks train on the set at that rate. ``full_epochs`` overrides
    the protocol's epochs for the training on all data.
    """
    protocol, soft = scorer.protocol, distilled.soft is not None
    own = replace(protocol, rate=distilled.card.get("rate") or protocol.rate)
    longest = replace(protocol, epochs=full_epochs or protocol.epochs)
    full = scorer.train("all images", Sets.same(real_train_set(data), repeats), longest)

    known = scorer._replace(teachers=full)
    ipc = len(distilled.images) // distilled.classes
    drawn = (random_soft if soft else random_images)(known, data, ipc, 0, repeats, key).sets
    mine, others = share_store(repeated(distilled, repeats), drawn, scorer.normaliser)

    def scored(what: str, sets: Sets, protocol: Protocol, augment: bool = True) -> dict[str, Any]:
        return scorer.score(what, sets, protocol if augment else replace(protocol, augment=NoAugment()))

    accuracies = {
        "full": scorer.tested(full),
        "distilled": scored("distilled", mine, own),
        "random": scored("random", others, protocol),
        "distilled_plain": scored("distilled, not augmented", mine, own, augment=False),
        "random_plain": scored("random, not augmented", others, protocol, augment=False),
    }
    accuracies["distilled_hard"] = accuracies["distilled"]
    if soft:  # otherwise the labels are hard already
        hard, _ = share_store(repeated(distilled.with_soft(None), repeats), drawn, scorer.normaliser)
        accuracies["distilled_hard"] = scored("distilled, hard labels", hard, own)

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
