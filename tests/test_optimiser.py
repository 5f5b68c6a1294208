"""Tests the image optimisers: class by class against a loop over turns, the others against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from distill_jax.axes.optimiser import SGD, Adam, ClassByClassAdam, ClassByClassSGD
from distill_jax.contracts import Optimiser
from distill_jax.types import RequestError
from tests.test_init import close


def gradient(x, c, sweep):
    """Return a gradient that depends on the image and the class, so that the next gradient sees any drift."""
    return np.sin(3 * x + c) + 0.3 * x * (sweep + 1)


def turn_by_turn(x, sweeps, lr, mu, clamp_before):
    """The released loop, in which the turn of each class is one SGD step on the whole tensor."""
    x, m = x.copy(), np.zeros_like(x)
    for sweep in range(sweeps):
        if sweep == clamp_before:
            x = np.clip(x, 0, 1)
        for c in range(len(x)):
            g = np.zeros_like(x)
            g[c] = gradient(x[c], c, sweep)
            m = mu * m + g
            x = x - lr * m
    return x, m


@pytest.mark.parametrize(("classes", "momentum"), [(4, 0.5), (5, 0.9), (3, 0.0), (1, 0.5), (3, 1.0)])
def test_class_by_class_equals_the_turn_by_turn_loop(classes, momentum):
    start = np.random.default_rng(classes).uniform(0, 1, (classes, 2, 3, 3, 1))
    rate = np.float32(0.2)  # as a traced spec holds it
    want, want_m = turn_by_turn(start, 5, float(rate), momentum, clamp_before=3)
    assert np.abs(want - start).max() > 0.5
    with jax.enable_x64(True):
        c = jnp.arange(classes, dtype=jnp.float64)[:, None, None, None, None]

        @jax.jit
        def sweep(images, state, index, lr, mu):
            optimiser = ClassByClassSGD(lr, mu)
            images, state = optimiser.before(images, state, 1.0)
            gradients = jnp.sin(3 * images + c) + 0.3 * images * (index + 1)
            return optimiser.after(gradients, images, state, 1.0)

        images = jnp.asarray(start)
        state = ClassByClassSGD(0.2, momentum).init(images)
        for index in range(5):
            if index == 3:
                images = jnp.clip(images, 0, 1)
            images, state = sweep(images, state, float(index), jnp.asarray(rate), float(momentum))
        assert images.dtype == state.dtype == jnp.float64
        close(images, want, 1e-12)
        close(state, want_m, 1e-12)


@pytest.mark.parametrize("classes", [4, 1])
def test_class_by_class_adam_equals_the_turn_by_turn_loop(classes):
    start = np.random.default_rng(classes).uniform(0, 1, (classes, 2, 3, 3, 1))
    lr, b1, b2, decay = 0.05, 0.8, 0.9, 0.1
    x, m, v, turn = start.copy(), np.zeros_like(start), np.zeros_like(start), 0
    for sweep in range(3):
        for c in range(classes):
            g = np.zeros_like(x)
            g[c] = gradient(x[c], c, sweep)
            turn += 1
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            # Where nothing has moved yet the root is 0.
            x = x - lr * (m / (1 - b1**turn) / (np.sqrt(v / (1 - b2**turn)) + 1e-8) + decay * x)
    with jax.enable_x64(True):
        c = jnp.arange(classes, dtype=jnp.float64)[:, None, None, None, None]
        optimiser, images = ClassByClassAdam(2 * lr, b1, b2, decay), jnp.asarray(start)
        state = optimiser.init(images)
        for sweep in range(3):
            images, state = optimiser.before(images, state, 0.5)
            gradients = jnp.sin(3 * images + c) + 0.3 * images * (sweep + 1)
            images, state = optimiser.after(gradients, images, state, 0.5)
        close(images, x, 1e-12)
        assert int(state[2]) == turn and images.dtype == jnp.float64


def test_sgd_steps_all_classes_together():
    images = jnp.linspace(0.0, 1.0, 12).reshape(3, 1, 2, 2, 1)
    optimiser = SGD(jnp.float32(0.1), 0.5)
    x, state = images, optimiser.init(images)
    for _ in range(2):
        seen, state = optimiser.before(x, state, 1.0)
        close(seen, x, 0)
        x, state = optimiser.after(jnp.ones_like(x), seen, state, 1.0)
    close(x, images - 0.1 * (1 + 1.5), 1e-6)
    trace = optax.tree.get(state, "trace")
    close(trace, jnp.full_like(x, 1.5), 1e-6)
    assert x.dtype == trace.dtype == jnp.float32


def test_adam_is_that_of_kingma_and_ba():
    images = jnp.linspace(0.0, 1.0, 12).reshape(3, 1, 2, 2, 1)
    optimiser = Adam(jnp.float32(0.1), b1=0.8, b2=0.9)
    x, state = images, optimiser.init(images)
    m = v = 0.0
    want = np.asarray(images, np.float64)
    for t in range(1, 4):
        g = np.cos(want) * t
        x, state = optimiser.after(jnp.asarray(g, jnp.float32), *optimiser.before(x, state, 0.5), 0.5)
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        want = want - 0.05 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.9**t)) + 1e-8)
        close(x, want, 1e-5)


@pytest.mark.parametrize("make", [ClassByClassSGD, SGD])
def test_the_scale_multiplies_the_learning_rate(make):
    images = jnp.linspace(0.0, 1.0, 12).reshape(3, 1, 2, 2, 1)

    def two_steps(optimiser, scale):
        x, state = images, optimiser.init(images)
        for _ in range(2):
            x, state = optimiser.before(x, state, scale)
            x, state = optimiser.after(jnp.cos(x), x, state, scale)
        return x

    close(two_steps(make(0.2, 0.5), 0.5), two_steps(make(0.1, 0.5), 1.0), 1e-6)


def test_the_learning_rate_is_halved_at_shares_of_the_run():
    optimiser = SGD(0.1, halve_at=(0.25, 0.5, 0.5))
    scales = [float(optimiser.schedule(jnp.asarray(outer), 8)) for outer in range(8)]
    assert scales == [1.0, 1.0, 0.5, 0.5, 0.125, 0.125, 0.125, 0.125]
    assert SGD().schedule(jnp.asarray(3), 8) == ClassByClassSGD().schedule(jnp.asarray(3), 8) == 1.0


@pytest.mark.parametrize(
    ("optimiser", "words"),
    [
        (ClassByClassSGD(lr=0.0), "optimiser.lr is 0"),
        (ClassByClassSGD(momentum=1.0), "from 0 to below 1"),
        (SGD(lr=-1.0), "optimiser.lr is -1"),
        (SGD(momentum=-0.1), "from 0 to below 1"),
        (SGD(halve_at=(0.5, 1.5)), "fractions of the run"),
        (Adam(b2=1.0), "from 0 to below 1"),
    ],
)
def test_bad_requests(optimiser, words):
    assert isinstance(optimiser, Optimiser)
    with pytest.raises(RequestError, match=words) as error:
        optimiser.validate()
    assert "\n" not in str(error.value)
