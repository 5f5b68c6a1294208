"""Tests CAFE's two loops, whose lengths depend on the accuracy (golden README, section 16)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.augment import Siamese
from distill_jax.axes.models import RandomInit
from distill_jax.axes.selector import RandomBatch
from distill_jax.axes.update import DynamicTraining, Watcher, dynamic
from distill_jax.distill import Problem, inner_step
from distill_jax.methods import CAFE
from distill_jax.nets import ConvNet, from_torch
from distill_jax.platform import compiled_for
from distill_jax.train import Pipeline
from distill_jax.types import (
    Array,
    Model,
    Net,
    NetOutput,
    Normaliser,
    RealData,
    Synthetic,
    TrainSet,
    choice,
)
from tests import toy
from tests.cafe import SHAPE, channels_first, figures, images, network, statistics


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return figures()


@pytest.mark.parametrize("kind", ["outer", "inner"])
def test_watcher_on_scripted_accuracies(golden: dict[str, np.ndarray], kind: str) -> None:
    steps = {leak: [] for leak in (True, False)}
    for hits, watch in zip(golden[f"{kind}_hits"], golden[f"{kind}_watch"], strict=True):
        for leak in steps:
            watcher, values, left = Watcher.new(), [], -1
            for t, accuracy in enumerate(hits / 1280):
                watcher = watcher.with_reading(jnp.float32(accuracy), 0.1 if leak else 0.0)
                values.append(float(watcher.readings[-1]))
                if watcher.flat(0.04) if kind == "outer" else watcher.moved(0.03):
                    left = t + 1
                    break
            steps[leak].append(left)
            if leak:
                np.testing.assert_allclose(values, watch[:left], atol=1e-6)
                assert np.isnan(watch[left:]).all()
    np.testing.assert_array_equal(steps[True], golden[f"{kind}_steps"])
    np.testing.assert_array_equal(steps[False], golden[f"{kind}_steps_without_leak"])


@dataclass(frozen=True)
class ScriptedNet:
    """A network that is right on ``hits[t]`` of 128 images of each of ten classes after t training steps.

    The pixels of an image are its class number. The running statistics count the steps.
    """

    hits: tuple[int, ...]

    def init(self, key: Array) -> Model:
        return Model({"w": jnp.zeros(())}, {"steps": jnp.zeros((), jnp.int32)})

    def apply(self, model: Model, x: Array, train: bool) -> tuple[NetOutput, Any]:
        label = jnp.round(x[:, 0, 0, 0]).astype(jnp.int32)
        hits = jnp.asarray(self.hits)[model.stats["steps"]]
        right = jnp.arange(len(x)) < hits // 10 + jnp.where(label < hits % 10, 1, 0)
        logits = jax.nn.one_hot(jnp.where(right, label, (label + 1) % 10), 10) + model.params["w"]
        return NetOutput(logits, (), x), {"steps": model.stats["steps"] + 1}


def test_an_accelerator_reads_the_accuracy_of_several_classes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch of a class stays its own: the scripted network is right on the first images of each batch."""
    labels = np.repeat(np.arange(10), 128)
    data, calls = RealData.from_arrays(labels.reshape(-1, 1, 1, 1), labels, [0.0], [1 / 255]), []
    net = ScriptedNet((327,))
    model, map_chunks = net.init(jax.random.key(0)), dynamic.tree.map_chunks

    def recorded(f: Any, xs: Any, chunk: int) -> Any:
        calls.append(chunk)
        return map_chunks(f, xs, chunk)

    monkeypatch.setattr(dynamic.tree, "map_chunks", recorded)

    def accuracy() -> float:
        return float(jax.jit(lambda data, key: dynamic.accuracy(net, model, data, 128, key))(data, jax.random.key(1)))

    with compiled_for("gpu"):
        assert accuracy() == np.float32(327 / 1280)
    assert accuracy() == np.float32(327 / 1280)
    assert calls == [10, 1]


def test_loops_end_when_the_scripted_accuracies_say_so(golden: dict[str, np.ndarray]) -> None:
    labels = np.repeat(np.arange(10), 128)
    data = RealData.from_arrays(labels.reshape(-1, 1, 1, 1), labels, [0.0], [1 / 255])
    syn = TrainSet(jnp.zeros((10, 1, 1, 1)), jnp.eye(10))
    update = DynamicTraining(max_epochs=30)

    @jax.jit
    @partial(jax.vmap, in_axes=(0, 0, None))
    def updated(hits: Array, live: tuple[Any, ...], update: DynamicTraining) -> tuple[Any, ...]:
        return update.update(ScriptedNet(hits), *live, data, syn, jax.random.key(1))  # type: ignore[arg-type]

    def start() -> tuple[Any, ...]:
        model = ScriptedNet(()).init(jax.random.key(0))
        return jax.tree.map(lambda a: jnp.stack([a] * 8), update.begin(ScriptedNet(()), model, data, jax.random.key(0)))

    # No change is below the threshold -1, so phases take ten epochs and the outer watcher reads every tenth figure.
    script, live, steps = np.repeat(golden["outer_hits"], 10, axis=1), start(), np.zeros(8, int)
    leaves = jax.jit(jax.vmap(update.leave))
    for step in range(1, 33):
        live = updated(script, tuple(live), replace(update, moved=-1.0))
        steps[np.asarray(leaves(live[1])) & (steps == 0)] = step
        trained = np.asarray(live[0].stats["steps"])
        np.testing.assert_array_equal(trained[steps == step], 10 * (step - 1), "no training after leaving")
    np.testing.assert_array_equal(steps, golden["outer_steps"])

    # One phase, with its first reading after its first epoch.
    script = np.pad(golden["inner_hits"], ((0, 0), (1, 600 - 61)))
    trained = updated(script, start(), update)[0].stats["steps"]
    np.testing.assert_array_equal(trained, np.minimum(golden["inner_steps"], 30), "as scripted, or bounded")


def test_every_epoch_and_reading_of_a_phase_draws_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    readings: list[float] = []
    epochs: list[tuple[float, bytes]] = []

    def accuracy(net, model, data, images, key) -> Array:
        jax.debug.callback(lambda number: readings.append(float(number)), jax.random.uniform(key))
        return jnp.zeros(())

    def train(net, model, optimiser, state, syn, order, pipeline, key):
        assert pipeline == Pipeline(5, 0.0, Siamese("flip"))

        def seen(number, rows) -> None:
            epochs.append((float(number), np.asarray(rows).tobytes()))

        jax.debug.callback(seen, jax.random.uniform(key), order.rows)
        return model, state, None

    monkeypatch.setattr(dynamic, "accuracy", accuracy)
    monkeypatch.setattr(dynamic, "train", train)
    update = DynamicTraining(max_epochs=4, batch=5, augment=Siamese("flip"))
    syn = TrainSet(jnp.zeros((9, 1, 1, 1)), jnp.eye(9))
    data = RealData.from_arrays(np.zeros((2, 1, 1, 1)), np.arange(2), [0.0], [1.0])
    model, state = update.begin(ScriptedNet(()), Model({}, {}), data, jax.random.key(0))  # type: ignore[arg-type]

    @jax.jit
    def updated(model: Model, state: Any, key: Array) -> tuple[Model, Any]:
        return update.update(ScriptedNet(()), model, state, data, syn, key)  # type: ignore[arg-type]

    for seed in range(2):
        model, state = updated(model, state, jax.random.key(seed))
    jax.effects_barrier()
    assert len(readings) == len(set(readings)) == 10
    assert len(epochs) == len({number for number, _ in epochs}) == len({rows for _, rows in epochs}) == 8


@choice
class FromPool(RandomInit):
    """Models of the pool, unchanged."""

    size: ClassVar[int] = 1

    def sample(self, net: Net, pool: Model, live: int, outer: Array | int, key: Array) -> Model:
        return pool


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_whole_outer_iteration(golden: dict[str, np.ndarray]) -> None:
    net, model = network(golden, "float64")
    real, syn = images(golden, "float64")
    data = RealData(
        images=real.reshape(-1, *SHAPE),  # already in network space, normalised in float32 as in the golden figures
        labels=jnp.repeat(jnp.arange(10, dtype=jnp.int32), 8),
        index=jnp.arange(80, dtype=jnp.int32).reshape(10, 8),
        counts=jnp.full(10, 8, jnp.int32),
        normaliser=Normaliser(jnp.zeros(3), jnp.ones(3)),
    )
    flat, moved = golden["loop_lambda"].tolist()
    update = DynamicTraining(flat=flat, moved=moved, max_epochs=20, images=8)
    spec = replace(
        CAFE, models=FromPool(), selector=RandomBatch(8), update=update, net=ConvNet(3, 16), ipc=2, inner_steps=20
    )
    spec = replace(spec, class_chunk=1, model_chunk=1)
    problem = Problem(spec, net, data, jax.tree.map(lambda a: a[None], model), jax.random.key(0))
    state = toy.begun(problem)
    state = state._replace(
        synthetic=Synthetic(syn),
        optimiser=Synthetic(spec.optimiser.init(syn), *state.optimiser[1:]),
        loss=jnp.zeros(()),
    )

    # Compiled with optimisation, unlike other programs of the suite, because it trains for 131 epochs.
    options = {"xla_backend_optimization_level": 2}
    step = jax.jit(lambda state, key: inner_step(problem, state, key), compiler_options=options)
    losses: list[Array] = []
    for i in range(14):
        assert not state.update.ended.all()
        state = step(state, jax.random.key(i))._replace(step=jnp.asarray(i + 1, jnp.int32))
        losses.append(state.loss * (i + 1) - sum(losses))
        np.testing.assert_allclose(statistics(state.synthetic.images), golden["loop_img_stats_f64"][i], rtol=1e-9)
    assert state.update.ended.all()
    np.testing.assert_allclose(losses, golden["loop_loss_f64"][:, 0] - golden["loop_loss_f64"][:, 3], rtol=1e-9)
    np.testing.assert_allclose(state.update.watcher.readings[0], golden["loop_outer_watch_f64"][-10:], rtol=1e-12)
    last = channels_first(state.synthetic.images)[[0, 13]]
    np.testing.assert_allclose(last, golden["loop_img_last"], atol=1e-6)
    shapes = [tuple(int(n) for n in shape if n) for shape in golden["shapes"]]
    pieces = np.split(golden["loop_net_last_f64"], np.cumsum([np.prod(shape) for shape in shapes])[:-1])
    theirs = from_torch(net, [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, atol=1e-10), state.models.params, theirs.params)
