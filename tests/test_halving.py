"""Tests the plan of successive halving: the candidates, the length of each rung, and the survivors."""

from dataclasses import replace

import pytest

from distill_jax import sweep
from distill_jax.axes.optimiser import SGD
from distill_jax.halving import LEAST_EPOCHS, Rung, Speed, candidates, grid, scheduled, survivors
from distill_jax.recipes import resolve
from distill_jax.types import RequestError

SPEC = resolve("acc_dd", "digits", shape=(8, 8, 1)).spec
RATE = SPEC.optimiser.lr  # type: ignore[attr-defined]


def cost(schedule, speed: Speed) -> float:
    """Return the seconds of each rung of a schedule."""
    total, before = 0.0, 0
    for rung in schedule.rungs:
        total += rung.candidates * (rung.stop - before) * speed.step + schedule.epochs * speed.epoch + speed.score
        before = rung.stop
    return total + (len(schedule.rungs) - 1) * speed.compile


@pytest.mark.parametrize("count", [3, 7, 25])
@pytest.mark.parametrize("seconds", [100.0, 600.0])
def test_the_budget_is_used_but_not_exceeded(count: int, seconds: float):
    speed = Speed(step=0.02, epoch=0.05, compile=4.0, score=3.0)
    schedule = scheduled(count, 3, 10**6, 1000, speed, seconds)
    sizes, stops, repeats = zip(*schedule.rungs, strict=True)
    assert sizes[0] == count and all(b == -(-a // 2) for a, b in zip(sizes, sizes[1:], strict=False))
    assert all(2 * a - 1 <= b <= 2 * a for a, b in zip(stops, stops[1:], strict=False)), "steps double"
    assert all(abs(n * r - 3 * count) <= n / 2 for n, r in zip(sizes, repeats, strict=True)), (
        "equal numbers of networks"
    )
    # The last step of each rung is rounded up by less than one step of all candidates.
    assert 0.9 * seconds < cost(schedule, speed) <= seconds + sum(sizes) * speed.step


def test_spare_time_improves_scores_and_too_little_time_gives_the_shortest_race():
    speed = Speed(step=0.01, epoch=0.1, compile=1.0, score=1.0)
    rich = scheduled(7, 3, 100, 300, speed, 10_000.0)
    assert rich.rungs == [Rung(7, 25, 3), Rung(4, 50, 5), Rung(2, 100, 10)] and rich.epochs == 300
    assert scheduled(7, 3, 100, 10**6, speed, 1000.0).epochs > 1000 / 3 / 0.3
    poor = scheduled(7, 3, 100, 300, speed, 1.0)
    assert poor.rungs == [Rung(7, 1, 3)] and poor.epochs == LEAST_EPOCHS
    assert scheduled(7, 3, 1, 2, speed, 1000.0).rungs[-1].stop == 1, "a run of one step"


def test_the_best_survive_in_their_order():
    assert survivors([1.0, 5.0, 3.0, 5.0], 2) == [1, 3]
    assert survivors([2.0, 2.0, 2.0], 2) == [0, 1], "the earlier of equal ones"


def test_candidates_are_multiples_of_the_recipe():
    assert grid("x", 0.0002, 7, 30) == [6.67e-6, 2.07e-5, 6.44e-5, 0.0002, 0.000621, 0.00193, 0.006]
    points = candidates(SPEC, ["optimiser.lr", "perturb.max"], 3, 10)
    assert len(points) == 9 and points[4] == {"optimiser.lr": RATE, "perturb.max": 0.09}
    assert sweep.at(SPEC, points[4]) == SPEC
    with pytest.raises(RequestError, match=r"reach is 1\.001, at which some of the 7 values of x are equal"):
        grid("x", 0.0002, 7, 1.001)
    # A momentum must be below 1.
    assert [p["optimiser.momentum"] for p in candidates(SPEC, ["optimiser.momentum"], 3, 10)] == [0.05, 0.5]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["optimiser.lrr"], "did you mean optimiser.lr"),
        (["models.optimiser.lr"], "not a number that the runs of one program can vary"),
        (["ipc"], "not a number that the runs of one program can vary"),
        (["update.optimiser.momentum"], "momentum"),
        (["optimiser.lr", "perturb.max", "perturb.min"], "125 candidates are too many"),
    ],
)
def test_invalid_requests_are_refused(names: list[str], said: str):
    spec = replace(SPEC, optimiser=SGD(0.1))
    reach = 2.0 if len(names) > 1 else 1000.0
    if names == ["update.optimiser.momentum"]:
        update = replace(spec.update.optimiser, momentum=0.0)  # type: ignore[attr-defined]
        spec, said = replace(spec, update=replace(spec.update, optimiser=update)), "momentum is 0"
    with pytest.raises(RequestError, match=said):
        candidates(spec, names, 5, reach)
