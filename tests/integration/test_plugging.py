"""Tests the papers' claim that model augmentation and representative matching plug into the other methods."""

from dataclasses import replace

import chex
import jax
import pytest

from distill_jax.axes.models import EarlyStagePool
from distill_jax.axes.perturb import Directions
from distill_jax.axes.selector import Representative
from distill_jax.cli.request.arguments import Common, parse
from distill_jax.distill import State, init_state, inner_step
from distill_jax.types import Array
from tests import toy

AUGMENTED = {
    "dc": "--models early-stage --perturb directions",
    "dsa": "--models early-stage --perturb directions",
    "idc": "--models early-stage --perturb directions",
    "mtt": "--perturb directions",
    "ncfm": "--perturb directions",
}


@pytest.mark.parametrize("method", AUGMENTED)
def test_model_augmentation_is_one_field(method: str) -> None:
    spec = parse([method, "digits", *AUGMENTED[method].split()], Common)[2].spec
    plain = parse([method, "digits"], Common)[2].spec
    assert isinstance(spec.perturb, Directions)
    assert replace(spec, models=plain.models, perturb=plain.perturb) == plain
    _traces(method, models=toy.shrunk(spec).models, perturb=spec.perturb)


@pytest.mark.parametrize("method", ["dc", "dsa", "dm", "idc", "acc_dd", "ncfm"])
def test_representative_matching_is_one_field(method: str) -> None:
    spec = parse([method, "digits", "--selector", "representative"], Common)[2].spec
    assert isinstance(spec.selector, Representative)
    plain = parse([method, "digits"], Common)[2].spec
    assert replace(spec, selector=plain.selector) == plain
    _traces(method, selector=Representative(4))


def test_trajectories_may_start_from_an_early_stage_pool() -> None:
    _traces("mtt", models=EarlyStagePool(size=2, epochs=1, ahead=1), perturb=Directions())


def _traces(method: str, **changes) -> None:
    """Assert that an inner step keeps the shapes and dtypes of its state."""

    def step(key: Array) -> tuple[State, State]:
        problem = toy.problem(method, **changes)
        state = init_state(problem)
        return state, inner_step(problem, state, key)

    with pytest.MonkeyPatch.context() as patched:
        # Without this, jax composes a long message that is not shown.
        patched.setattr(jax, "block_until_ready", lambda tree: tree)
        state, after = jax.eval_shape(step, jax.random.key(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
