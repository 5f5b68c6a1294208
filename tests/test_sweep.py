"""A sweep computes what its runs compute one by one."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax import distill, sweep
from distill_jax.augment import NoAugment
from distill_jax.distill import Problem
from distill_jax.models import EarlyStagePool
from distill_jax.nets import ConvNet
from distill_jax.select import RandomBatch
from distill_jax.spec import Hyper, Spec
from distill_jax.synthetic import Mix, Pixels
from distill_jax.types import RealData, RequestError
from distill_jax.update import TrainOnReal

SPEC = Spec(
    models=EarlyStagePool(perturb=True, size=2),
    selector=RandomBatch(4),
    parameterisation=Pixels(),
    augment=NoAugment(),
    update=TrainOnReal(images=4, batch=4, cutmix=0.0, augment=NoAugment()),
    init=Mix(),
    net=ConvNet(depth=1, width=4),
    outer_steps=2,
    inner_steps=2,
    class_chunk=1,
    model_chunk=1,
)


def problem(spec: Spec = SPEC) -> Problem:
    """Two classes of random 8x8 images, and a pool of random models."""
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), np.uint8)
    labels = jnp.arange(12, dtype=jnp.int32) % 2
    index = jnp.arange(12, dtype=jnp.int32).reshape(6, 2).T
    counts, half, quarter = jnp.full(2, 6, jnp.int32), jnp.full(1, 0.5), jnp.full(1, 0.25)
    net = spec.net.build((8, 8, 1), 2)
    pool = jax.vmap(net.init)(jax.random.split(jax.random.key(2), 2))
    data = RealData(jnp.asarray(images), labels, index, counts, half, quarter)
    return Problem(spec, net, Hyper(syn_lr=0.01), data, pool, jax.random.key(0))


def test_grid_has_every_combination():
    points = sweep.grid(Hyper(), {"perturb_max": [0, 0.1], "syn_lr": [1, 2, 3]})
    assert [(p.perturb_max, p.syn_lr) for p in points] == [(a, b) for a in (0, 0.1) for b in (1, 2, 3)]
    assert sweep.grid(Hyper(), {}) == [Hyper()]
    with pytest.raises(RequestError, match="did you mean perturb_max"):
        sweep.grid(Hyper(), {"perturb_mx": [0, 1]})
    with pytest.raises(RequestError, match="twice"):
        sweep.grid(Hyper(), {"syn_lr": [1, 1]})


def test_points_compute_what_single_runs_compute(monkeypatch: pytest.MonkeyPatch):
    traces = []
    step = distill.inner_step
    monkeypatch.setattr(distill, "inner_step", lambda *args: traces.append(1) or step(*args))
    base = problem()
    roots = [jax.random.key(0), jax.random.key(1)]
    points = sweep.points(base, sweep.grid(base.hyper, {"perturb_max": [0, 0.3]}), roots)

    *_, mapped = sweep.run(points, chunk=1)  # four blocks: of one step, one step and the rest
    assert len(traces) == 1
    *_, vmapped = sweep.run(points, chunk=4)
    assert mapped.state.step.tolist() == [4] * 4
    images = mapped.state.synthetic.images
    np.testing.assert_allclose(vmapped.state.synthetic.images, images, atol=1e-6)
    np.testing.assert_allclose(vmapped.losses, mapped.losses, rtol=1e-5)
    assert np.abs(images[0] - images[2]).max() > 1e-6  # perturbation has an effect

    plain = problem(replace(SPEC, models=EarlyStagePool(perturb=False, size=2)))
    for i, root in enumerate(roots):
        alone = replace(plain, root=root)
        state, losses = distill.run_block(alone, distill.init_state(alone), 4)
        np.testing.assert_allclose(images[i], state.synthetic.images, atol=1e-7)
        np.testing.assert_allclose(mapped.losses[i, -1], losses[3], rtol=1e-6)


def test_training_sets_are_point_by_point():
    base = problem()
    points = sweep.points(base, sweep.grid(base.hyper, {"syn_lr": [0.1, 0.2]}), [base.root])
    states = sweep.init_states(points, 1)
    images = states.synthetic.images.at[1].set(0.0)
    sets = sweep.training_sets(points, states._replace(synthetic=states.synthetic._replace(images=images)), repeats=3)
    assert sets.rows.tolist() == [[0, 1]] * 3 + [[2, 3]] * 3
    np.testing.assert_allclose(sets.store.images[2:], -2.0)  # black, in network space
    np.testing.assert_array_equal(sets.store.targets, [[1, 0], [0, 1]] * 2)
