"""Successive halving (Jamieson and Talwalkar 2016, algorithm 1): many candidates run few steps, the best run more.

A *candidate* is a spec. A *rung* is a stretch of steps that the remaining candidates take together, as one sweep, and
after which they are scored. The survivors continue from their current states. Every rung doubles the steps taken and
trains about as many scoring networks in all, so fewer candidates get more accurate scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from distill_jax import sweep
from distill_jax.check_spec import validate
from distill_jax.spec import Spec
from distill_jax.types import RequestError

SCORING = 1 / 3
"""fraction of the time for scoring; the rest is for steps"""
MOST = 64
"""maximum number of candidates"""
LEAST_EPOCHS = 30
"""minimum epochs of a scoring network, unless its protocol has fewer; fewer epochs give an unreliable order"""


class Rung(NamedTuple):
    """One rung of the race."""

    candidates: int
    """number of candidates in this rung"""
    stop: int
    """number of inner steps since the start of the run that each candidate has taken at the end of this rung"""
    repeats: int
    """number of networks trained on the set of each candidate"""


class Schedule(NamedTuple):
    """The plan of the whole race, fixed before it starts."""

    rungs: list[Rung]
    epochs: int
    """number of epochs of a scoring network"""


class Speed(NamedTuple):
    """Measured durations in seconds."""

    step: float
    """one inner step of one candidate"""
    epoch: float
    """one epoch of all networks of a rung"""
    compile: float
    """compilation of the steps of a rung; those of the first rung are already compiled"""
    score: float
    """compilation and test of the networks of a rung"""


def scheduled(candidates: int, repeats: int, steps: int, epochs: int, speed: Speed, seconds: float) -> Schedule:
    """Return the schedule of a race of ``candidates`` for ``seconds``; at first ``repeats`` networks score each
    candidate.

    No candidate takes more than ``steps`` steps or is scored after more than ``epochs`` epochs. If time is short, the
    race first has fewer rungs (at least one), then fewer epochs and steps. It may take longer than ``seconds`` at the
    minimum.
    """
    sizes = [candidates]
    while sizes[-1] > 2:
        sizes.append(-(-sizes[-1] // 2))

    def overhead() -> float:
        return (len(sizes) - 1) * speed.compile + len(sizes) * speed.score

    while len(sizes) > 1 and overhead() > seconds / 2:
        sizes.pop()
    count, available = len(sizes), max(0.0, seconds - overhead())
    # Each rung doubles the steps: sum the fractions of the last rung's steps that each rung adds, times its candidates.
    shares = [0.5 ** (count - 1), *(0.5 ** (count - k) for k in range(1, count))]
    step_seconds = speed.step * sum(size * share for size, share in zip(sizes, shares, strict=True))

    def fitting_epochs(seconds: float) -> int:
        affordable = int(seconds / max(count * speed.epoch, 1e-9))
        return max(min(affordable, epochs), min(LEAST_EPOCHS, epochs))

    last = int((available - count * fitting_epochs(available * SCORING) * speed.epoch) / max(step_seconds, 1e-9))
    last = max(min(last, steps), min(2 ** (count - 1), steps))
    stops = [-(-last // 2 ** (count - 1 - k)) for k in range(count)]
    rows = [Rung(n, stop, round(repeats * candidates / n)) for n, stop in zip(sizes, stops, strict=True)]
    return Schedule(rows, fitting_epochs(max(available * SCORING, available - last * step_seconds)))


def survivors(accuracies: Sequence[float], keep: int) -> list[int]:
    """Return the indices of the ``keep`` best in their original order; ties go to the earlier."""
    return sorted(np.argsort(-np.asarray(accuracies), kind="stable")[:keep].tolist())


def candidates(spec: Spec, names: Sequence[str], count: int, reach: float) -> list[dict[str, float]]:
    """Return every combination of ``count`` (an odd number) values of each path in ``names`` as {path: value}.

    ``spec`` itself is in the middle. Invalid points are omitted. Raise RequestError if a path does not lead to a number
    that one program can vary, or if fewer than 2 or more than MOST points remain.
    """
    for name in names:
        if not sweep.is_traced(spec, name):
            raise RequestError(
                f"{name} is not a number that the runs of one program can vary: tune another, as in "
                "--tune optimiser.lr; experiments.ablate also sweeps numbers that change the program"
            )
    points, refused = [], None
    for point in sweep.combinations({name: grid(name, sweep.field_at(spec, name), count, reach) for name in names}):
        try:
            validate(sweep.at(spec, point))
            points.append(point)
        except RequestError as error:
            refused = error
    if refused is not None and len(points) < 2:
        raise refused
    if len(points) > MOST:
        raise RequestError(f"{len(points)} candidates are too many: add --candidates 3, or --tune fewer numbers")
    return points


def grid(name: str, value: float, count: int, reach: float) -> list[float]:
    """Return ``count`` values at equal ratios from ``value / reach`` to ``value * reach``, to three digits; ``value``
    is the middle one. Raise RequestError if ``value`` is 0, which has no multiples, or if values are equal."""
    if value == 0:
        raise RequestError(f"{name} is 0, as are its multiples: set it to another value, or do not --tune it")
    half = count // 2
    ratios = (reach ** (i / half) for i in range(-half, half + 1))
    values = [value if ratio == 1 else float(f"{value * ratio:.3g}") for ratio in ratios]
    if len(set(values)) < count:
        equal = f"at which some of the {count} values of {name} are equal"
        raise RequestError(f"reach is {reach:g}, {equal}: give a larger --reach or fewer --candidates")
    return values
