"""Tests protocols, and the training of R networks from scratch (golden README, section 9)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from distill_jax import evaluation
from distill_jax.augment import NoAugment, Siamese
from distill_jax.axes.parameterisation import Pixels
from distill_jax.data import Dataset, digits, whitened
from distill_jax.distilled import DistilledSet
from distill_jax.evaluation import PROTOCOLS, Protocol, evaluate, train_networks
from distill_jax.nets import ConvNet
from distill_jax.run import Block, Keys
from distill_jax.schedules import rate_drops, reset_momentum
from distill_jax.train import NetworkSGD
from distill_jax.train_many import Sets
from distill_jax.types import Array, Model, NetOutput, Normaliser, RequestError, TrainSet
from tests.golden_weights import GOLDEN

SHAPE, C = (4, 4, 1), 2
NET = ConvNet(depth=1, width=2).build(SHAPE, C)
AS_THEY_ARE = Normaliser(jnp.zeros(1), jnp.ones(1))
PLAIN = {name: replace(protocol, cutmix=0.0, augment=NoAugment()) for name, protocol in PROTOCOLS.items()}


def images(n: int, seed: int = 1) -> TrainSet:
    return TrainSet(jax.random.normal(jax.random.key(seed), (n, *SHAPE)), jax.nn.one_hot(jnp.arange(n) % C, C))


def trained(net, protocol: Protocol, sets: Sets, seed: int = 0, chunk: int = 0) -> Model:
    blocks: list[Block] = []
    models = train_networks(net, protocol, sets, jax.random.key(seed), AS_THEY_ARE, [blocks.append], chunk)
    assert [block.first for block in blocks] == [0, *(block.end for block in blocks[:-1])]
    assert blocks[-1].end == protocol.passes
    return models


def learning_rates(protocol: Protocol, steps: int) -> Array:
    """Return the learning rate of every step of the protocol, with ``steps`` steps per epoch."""
    drops = rate_drops(protocol.epochs, steps, protocol.schedule)
    return protocol.rate * jax.jit(jax.vmap(drops))(jnp.arange(steps * protocol.passes))  # type: ignore[return-value]


def close(ours, theirs, **tolerance) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), ours, theirs)


# ------------------------------------------------------------------ what the protocols say


@pytest.mark.parametrize(("name", "epochs"), [("dc-bench", 300), ("dsa", 1000), ("dsa", 300), ("dc-bench", 1000)])
def test_dc_rates_and_new_optimisers_golden(name: str, epochs: int) -> None:
    with np.load(GOLDEN / "schedule.npz") as golden:
        rates, new = golden[f"dc_lr_{epochs}"], golden[f"dc_newopt_{epochs}"]
    protocol = replace(PROTOCOLS[name], epochs=epochs)
    assert protocol.passes == len(rates) == epochs + 1
    np.testing.assert_allclose(learning_rates(protocol, 3), np.repeat(rates, 3), rtol=1e-6)
    assert list(protocol.course.restarts) == list(np.flatnonzero(new))


def test_the_named_protocols() -> None:
    told = {
        name: (p.epochs, p.passes, p.batch, p.rate, p.momentum, p.weight_decay, p.cutmix)
        for name, p in PROTOCOLS.items()
    }
    assert told == {
        "idc": (1000, 1000, 64, 0.01, 0.9, 5e-4, 0.5),
        "dc-bench": (300, 301, 256, 0.01, 0.9, 5e-4, 0.0),
        "cafe": (600, 601, 256, 0.01, 0.9, 5e-4, 0.0),
        "dsa": (1000, 1001, 256, 0.01, 0.9, 5e-4, 0.0),
        "datm": (1000, 1001, 128, 0.01, 0.9, 5e-4, 0.0),
        "rat": (1000, 1000, 100, 1e-3, 0.9, 0.0, 0.0),
        "dd-ranking": (300, 300, 256, 0.01, 0.9, 5e-4, 0.0),
    }
    one = Siamese("color_crop_cutout_flip_scale_rotate", "one")
    assert [p.augment for p in PROTOCOLS.values()][1:] == [
        NoAugment(),
        NoAugment(),
        one,
        one,
        Siamese("flip_rotate", "one"),
        one,
    ]
    ranking = PROTOCOLS["dd-ranking"]
    assert PROTOCOLS["idc"].course.restarts == ranking.course.restarts == ()
    np.testing.assert_allclose(learning_rates(ranking, 1), np.repeat([0.01, 0.001], 150), rtol=1e-6)
    with pytest.raises(RequestError, match="choose one of thirds constant half dc"):
        Protocol(schedule="dcc").validate()  # type: ignore[arg-type]


def test_epochs_on_another_number_of_images_take_as_many_steps() -> None:
    protocol = Protocol(epochs=300, batch=64)
    for (images, other), epochs in {
        (65, 64): 600, (64, 65): 150, (10, 1347): 14, (1347, 10): 6600, (1, 10**5): 1, (640, 650): 273,
    }.items():  # fmt: skip
        assert evaluation.matched_epochs(protocol, images, other) == replace(protocol, epochs=epochs)


# ------------------------------------------------------------------ what the loop does


@cache
def steps_taken(protocol: Protocol) -> float:
    """Return the number of steps that a network takes, by its batch norm."""
    net = ConvNet(depth=1, width=2, norm="batch").build(SHAPE, C)
    store = images(5)
    store = store._replace(images=jnp.tile(store.images[:1], (5, 1, 1, 1)))
    one = jax.tree.map(lambda a: np.asarray(a[0]), trained(net, protocol, Sets.same(store, 1)))
    zeros = jax.tree.map(np.zeros_like, one.stats)
    after = jax.jit(lambda model, x: net.apply(model, x, train=True)[1])(one._replace(stats=zeros), store.images)
    share = one.stats["norm0"]["mean"] / (after["norm0"]["mean"] / 0.1)
    steps = np.log(1 - share) / np.log(0.9)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3)
    return float(steps[0])


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_loop_takes_the_steps_of_the_protocol(name: str) -> None:
    """Batch norm counts the steps: on equal images and with constant weights, its running mean is (1 - 0.9^steps) times
    the mean of the images.
    """
    # Protocols that differ only in their names, the replaced numbers and the augmentation share a program.
    steps = steps_taken(replace(PLAIN[name], name="any", epochs=4, batch=2, rate=0.0))
    epochs = 4 + (name in ("dc-bench", "cafe", "dsa", "datm"))
    np.testing.assert_allclose(steps, 3 * epochs, rtol=1e-3)


def test_dc_begins_with_a_new_optimiser_where_the_rate_drops() -> None:
    """The released procedure takes E + 1 passes. After pass E // 2 + 1 it divides the rate by ten and resets the
    momentum.
    """
    store, epochs = images(6), 4
    protocol = replace(PLAIN["dc-bench"], epochs=epochs, rate=0.3)
    ours = jax.tree.map(lambda a: a[0], trained(NET, protocol, Sets.same(store, 1)).params)
    first = jax.jit(NET.init)(jax.random.split(jax.random.key(0), 1)[0]).params

    @jax.jit
    def step(optimiser: NetworkSGD, params, state):
        def loss(params):
            out, _ = NET.apply(Model(params, {}), store.images, train=True)
            return jnp.mean(optax.softmax_cross_entropy(out.logits, store.targets))

        updates, state = optimiser.transform().update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    def by_hand(resets: bool):
        params, optimiser = first, NetworkSGD(0.3, 0.9, 5e-4)
        new = optimiser.transform().init(jax.tree.map(np.zeros_like, params))
        state = new
        for epoch in range(epochs + 1):
            params, state = step(optimiser, params, state)
            if epoch == epochs // 2 + 1:
                optimiser = replace(optimiser, lr=0.03)
                state = new if resets else state
        return params

    close(ours, by_hand(resets=True), rtol=1e-5, atol=1e-6)
    kept = by_hand(resets=False)
    assert not np.allclose(kept["classifier"]["kernel"], ours["classifier"]["kernel"], atol=1e-4)


def test_a_restart_resets_only_the_momentum() -> None:
    params = {"kernel": jnp.ones((2, 2))}
    optimiser = NetworkSGD(0.1).transform(optax.constant_schedule(1.0))
    _, state = optimiser.update({"kernel": jnp.ones((2, 2))}, optimiser.init(params), params)
    new = reset_momentum(state)
    assert int(optax.tree.get(new, "count")) == int(optax.tree.get(state, "count")) == 1
    assert float(jnp.abs(optax.tree.get(state, "trace")["kernel"]).max()) > 0
    np.testing.assert_array_equal(optax.tree.get(new, "trace")["kernel"], 0.0)


# ------------------------------------------------------------------ R repeats


SHORT = replace(PROTOCOLS["idc"], epochs=3, batch=4, augment=Siamese("flip"))


def test_repeats_in_one_program_equal_single_runs() -> None:
    protocol = SHORT
    sets = Sets(images(9), jnp.arange(9, dtype=jnp.int32).reshape(3, 3))
    together = trained(NET, protocol, sets, chunk=3)
    close(trained(NET, protocol, sets, chunk=2), together, rtol=1e-5, atol=1e-6)
    alone = trained(NET, protocol, sets._replace(rows=sets.rows[:1]), chunk=1)
    close(alone, jax.tree.map(lambda a: a[:1], together), rtol=1e-5, atol=1e-6)


def test_each_set_may_have_a_learned_rate() -> None:
    sets = Sets.same(images(5), 2)._replace(rates=jnp.asarray([0.03, 0.2]))
    dsa = replace(PROTOCOLS["dsa"], epochs=1, batch=4, augment=NoAugment())
    idc = replace(dsa, name="idc", rate=0.2)
    fixed = trained(NET, idc, sets._replace(rates=None))
    close(trained(NET, idc, sets), fixed, rtol=0, atol=0)
    slow = trained(NET, replace(dsa, rate=0.03), sets._replace(rates=None))
    want = jax.tree.map(lambda a, b: np.stack([a[0], b[1]]), slow, fixed)
    close(trained(NET, dsa, sets), want, rtol=1e-6, atol=1e-7)


def test_the_same_seed_gives_the_same_accuracy() -> None:
    test = jax.random.randint(jax.random.key(3), (50, *SHAPE), 0, 256).astype(jnp.uint8), jnp.arange(50) % C
    sets = Sets(images(9), jnp.tile(jnp.asarray([0, 3, 4], jnp.int32), (3, 1)))  # in the program of the test above
    models = [trained(NET, SHORT, sets, seed, chunk=3) for seed in (0, 0, 1)]
    one, again, other = (evaluation.test_accuracies(NET, of, test, AS_THEY_ARE) for of in models)
    assert one == again != other
    assert one[0] != one[1], "repeats have different seeds"


@dataclass(frozen=True)
class Reader:
    """A network that predicts the pixel of an image plus its only parameter, modulo three."""

    def apply(self, model: Model, x: Array, train: bool) -> tuple[NetOutput, Any]:
        pixel = jnp.round(x[:, 0, 0, 0]).astype(jnp.int32)
        return NetOutput(jax.nn.one_hot((pixel + model.params["shift"]) % 3, 3), (), x), {}


def test_accuracy_is_the_percentage_of_correct_predictions_of_each_network() -> None:
    pixels = np.arange(8) % 3
    labels = np.where(np.arange(8) < 5, pixels, (pixels + 1) % 3)
    test = jnp.asarray(pixels.reshape(8, 1, 1, 1), jnp.uint8), jnp.asarray(labels)
    models, raw = Model({"shift": jnp.arange(3)}, {}), Normaliser(jnp.zeros(1), jnp.full(1, 1 / 255))
    assert evaluation.test_accuracies(Reader(), models, test, raw) == [62.5, 37.5, 0.0]  # type: ignore[arg-type]


def test_a_set_must_fit_the_data_that_score_it() -> None:
    data, distilled = digits(), DistilledSet.load("digits-ipc1")
    x, y = data.x_test[:, :4, :4], data.y_test
    small = Dataset.from_arrays("small", x, y, x, y)
    wrong = {"has other classes": data.only(["0", "1"]), "is whitened": whitened(data), "has images 4x4x1": small}
    for said, other in wrong.items():
        with pytest.raises(RequestError, match=said):
            evaluate(distilled, other)
    with pytest.warns(UserWarning, match="the set was distilled from other images than digits"):
        evaluate(distilled, data.withhold(0.5, 0), replace(PLAIN["dsa"], epochs=1), ConvNet(1, 2), repeats=1)


def test_the_set_says_how_test_images_are_normalised(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(evaluation, "train_networks", lambda *args: asked.update(trained=args))
    monkeypatch.setattr(evaluation, "test_accuracies", lambda *args: asked.update(tested=args))
    data, shown = digits(), DistilledSet.load("digits-ipc1")
    given = Normaliser(jnp.full(1, 0.25), jnp.full(1, 0.75))
    stored = jnp.asarray(shown.images).reshape(10, 1, 8, 8, 1)
    distilled = DistilledSet.of(Pixels(), stored, shown.card["class_names"], given, {})
    evaluate(distilled, data, PLAIN["dsa"], ConvNet(1, 2), repeats=3, seed=7)
    _, _, sets, key, of_training = asked["trained"]
    _, _, (x, y), of_test = asked["tested"]
    for normaliser in (of_training, of_test):
        jax.tree.map(np.testing.assert_array_equal, normaliser, given)
    np.testing.assert_array_equal(x, data.x_test)
    np.testing.assert_array_equal(y, data.y_test)
    np.testing.assert_allclose(sets.store.images, (shown.images - 0.25) / 0.75, atol=1e-6)
    assert sets.rows.tolist() == [list(range(10))] * 3 and key == Keys.of(7).score


def test_networks_train_at_the_learned_rate_of_the_set() -> None:
    data, distilled, protocol = digits(), DistilledSet.load("digits-ipc1"), replace(PLAIN["dsa"], epochs=1)
    learned = distilled.with_card(rate=0.05)
    assert evaluation.at_learned_rate(protocol, learned).rate == 0.05
    with pytest.MonkeyPatch.context() as patch:
        used: list[float] = []
        patch.setattr(evaluation, "train_networks", lambda net, protocol, *_: used.append(protocol.rate))
        patch.setattr(evaluation, "test_accuracies", lambda *_: [])
        evaluate(learned, data, protocol)
        evaluate(learned, data, PLAIN["idc"])
    assert used == [0.05, 0.01]
