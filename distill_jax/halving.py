"""Successive halving (Jamieson and Talwalkar 2016, algorithm 1): many candidates for few steps, the best for more.

A *candidate* is a spec, a *rung* a stretch of steps that the candidates still in the race take together, as one sweep,
and at whose end they are scored. Those that stay go on from where they are. Every rung doubles the steps taken and
trains about as many networks to score with, so that the fewer candidates there are, the better each is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from distill_jax import sweep
from distill_jax.spec import Spec, validate
from distill_jax.types import RequestError

SCORING = 1 / 3
"""share of the seconds that goes into scoring; the rest into steps"""
MOST = 64
"""candidates in a race"""
LEAST_EPOCHS = 30
"""that a network is trained for at least to score a candidate, where its protocol has as many: after fewer, the order
of the candidates says little"""


class Rung(NamedTuple):
    """A stretch of the race."""

    candidates: int
    """that take part"""
    stop: int
    """inner steps that each has taken at the end, since the start of its run"""
    repeats: int
    """networks trained on the set of each"""


class Schedule(NamedTuple):
    """The whole race, fixed before it begins."""

    rungs: list[Rung]
    epochs: int
    """of a network that scores"""


class Speed(NamedTuple):
    """What was measured, in seconds."""

    step: float
    """an inner step of one candidate"""
    epoch: float
    """an epoch of all networks of a rung"""
    compile: float
    """compiling a rung's steps; those of the first are compiled already"""
    score: float
    """compiling a rung's networks, and testing them"""


def scheduled(candidates: int, repeats: int, steps: int, epochs: int, speed: Speed, seconds: float) -> Schedule:
    """The race of so many ``candidates``, each scored by ``repeats`` networks at first, that takes ``seconds``.

    No candidate takes more than ``steps`` or is scored after more than ``epochs``. Where the time is short there are
    fewer rungs (down to one), then fewer epochs and steps, down to a race that takes longer than it should.
    """
    sizes = [candidates]
    while sizes[-1] > 2:
        sizes.append(-(-sizes[-1] // 2))

    def overhead() -> float:
        return (len(sizes) - 1) * speed.compile + len(sizes) * speed.score

    while len(sizes) > 1 and overhead() > seconds / 2:
        sizes.pop()
    count, left = len(sizes), max(0.0, seconds - overhead())
    # Doubling: of the last rung's steps, the share that each rung adds, times the candidates that take them.
    shares = [0.5 ** (count - 1), *(0.5 ** (count - k) for k in range(1, count))]
    each = speed.step * sum(size * share for size, share in zip(sizes, shares, strict=True))

    def fitting(seconds: float) -> int:
        wanted = int(seconds / max(count * speed.epoch, 1e-9))
        return max(min(wanted, epochs), min(LEAST_EPOCHS, epochs))

    last = int((left - count * fitting(left * SCORING) * speed.epoch) / max(each, 1e-9))
    last = max(min(last, steps), min(2 ** (count - 1), steps))
    stops = [-(-last // 2 ** (count - 1 - k)) for k in range(count)]
    rows = [Rung(n, stop, round(repeats * candidates / n)) for n, stop in zip(sizes, stops, strict=True)]
    return Schedule(rows, fitting(max(left * SCORING, left - last * each)))


def survivors(accuracies: Sequence[float], keep: int) -> list[int]:
    """The ``keep`` best, in the order they stand in; of equal ones the earlier."""
    return sorted(np.argsort(-np.asarray(accuracies), kind="stable")[:keep].tolist())


def candidates(spec: Spec, names: Sequence[str], count: int, reach: float) -> list[dict[str, float]]:
    """Every combination of ``count`` values (an odd number) of each of the ``names``, paths of fields of ``spec``: a
    point by path for each, ``spec`` itself in the middle. Points that make no sense are left out.

    Raises RequestError for a path that leads to no number that the runs of one program may differ in, and where fewer
    than 2 or more than MOST points are left.
    """
    for name in names:
        if not sweep.is_traced(spec, name):
            raise RequestError(
                f"{name} is no number that the runs of one program may differ in: name another, as in "
                "--tune optimiser.lr; experiments.ablate takes any setting"
            )
    points, refused = [], None
    for point in sweep.combinations({name: grid(name, sweep.field_at(spec, name), count, reach) for name in names}):
        try:
            validate(at(spec, point))
            points.append(point)
        except RequestError as error:
            refused = error
    if refused is not None and len(points) < 2:
        raise refused
    if len(points) > MOST:
        raise RequestError(f"{len(points)} candidates are too many: give --candidates 3, or fewer numbers to --tune")
    return points


def at(spec: Spec, point: Mapping[str, float]) -> Spec:
    """``spec`` with the numbers of ``point``."""
    for name, value in point.items():
        spec = sweep.replaced(spec, name, value)
    return spec


def grid(name: str, value: float, count: int, reach: float) -> list[float]:
    """``count`` values at equal ratios from ``value / reach`` to ``value * reach``, to three digits; ``value`` is the
    middle one. Raises RequestError for 0, which has no ratios."""
    if value == 0:
        raise RequestError(f"{name} is 0, and candidates are multiples of it: give it a number, or leave it out")
    half = count // 2
    ratios = (reach ** (i / half) for i in range(-half, half + 1))
    return [value if ratio == 1 else float(f"{value * ratio:.3g}") for ratio in ratios]
