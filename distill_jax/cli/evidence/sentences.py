"""Sentences that state the figures of an analysis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distill_jax.cli.output.display import plus_minus
from distill_jax.cli.session.score import interval, summary


def sentences(found: Mapping[str, Any]) -> str:
    """Return a Markdown list with a line per figure of ``phases.py``. ± is a standard deviation over what the line
    names."""
    lines = [*_batches(found), *_models(found["models"]), *_pretraining(found["pretraining"])]
    return "\n".join(f"- {line}" for line in lines)


def relative_norms(norms: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return gradient norms relative to the mean of their class: ``tenths`` [C, tenths] by distance from the centre,
    and the mean over the images of each selection [C]."""
    of_class = np.asarray(norms["class"])[:, None]
    selected = {name: (np.asarray(of) / of_class).mean(axis=1) for name, of in norms["selected"].items()}
    return {"tenths": np.asarray(norms["by_distance"]) / of_class, **selected}


def _batches(found: Mapping[str, Any]) -> list[str]:
    norms, distances = relative_norms(found["batches"]["norms"]), found["batches"]["distances"]
    tenths, batch, steps = norms.pop("tenths"), found["samples"], found["steps"]
    of_each = ", ".join(f"{name} {_over_classes(of)}" for name, of in norms.items())
    lines = [
        f"Relative to the class mean, the gradient norm of an image is {_over_classes(tenths[:, 0])} in the tenth "
        f"nearest to the centre and {_over_classes(tenths[:, -1])} in the farthest; in a batch of {batch}: {of_each} "
        f"(± over classes; a network after {steps} steps)."
    ]
    what = {
        "mean": "Distance of the mean embedding of a batch from the mean of its class",
        "cover": "Distance of an image from the nearest image in the batch",
    }
    for measure, title in what.items():
        of = {name: np.mean(distances[name][measure], axis=0) for name in distances}
        each = ", ".join(f"{name} {_over_classes(a)}" for name, a in of.items())
        nearer = int(np.sum(of["representative"] < of["random"]))
        lines.append(
            f"{title}: {each} (in units of the class's spread, mean of {steps} steps, ± over classes); representative "
            f"is nearer in {nearer} of {len(of['random'])} classes."
        )
    return lines


def _models(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return ["Models are not compared, because the objective needs models with targets, which random models lack."]
    cosines, lengths = [], []
    for name, of in found.items():
        between = "" if of["interval"] is None else ", 95 %: {:.3f} to {:.3f}".format(*of["interval"])
        cosines.append(f"{name} {of['cosine']['mean']:.3f} ({of['models']} models{between})")
        lengths.append(f"{name} {of['length']['mean']:.3g}")
    return [
        f"Cosine of the gradients of the same images under two models: {'; '.join(cosines)}.",
        f"Length of these gradients: {', '.join(lengths)}.",
    ]


def _pretraining(found: Mapping[str, Any] | None) -> list[str]:
    lines = []
    for epochs, accuracies in zip(found["epochs"], found["accuracy"], strict=True) if found else ():
        of = summary(accuracies)
        between = interval(of)
        limits = "" if between is None else f" (95 %: {between[0]:.1f} to {between[1]:.1f})"
        lines.append(f"After {epochs} epochs of pretraining: {plus_minus(of)} % of held-out images (seeds){limits}.")
    return lines


def _over_classes(of: Sequence[float] | np.ndarray) -> str:
    return f"{np.mean(of):.3f} ± {np.std(of, ddof=1):.3f}"
