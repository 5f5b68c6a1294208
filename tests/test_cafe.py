"""CAFE: its loss, its two loops and its rate schedule against the released code (golden README, section 16)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from distill_jax.axes.models import RandomInit
from distill_jax.axes.objective import LayerwiseAlignment, Terms, alignment_terms
from distill_jax.axes.optimiser import SGD
from distill_jax.axes.selector import RandomBatch
from distill_jax.axes.update import DynamicTraining, Watcher
from distill_jax.distill import Problem, init_state, inner_step
from distill_jax.methods import CAFE
from distill_jax.nets import ConvNet, FlaxNet, from_torch
from distill_jax.recipes import resolve
from distill_jax.spec import check
from distill_jax.train import NetworkSGD
from distill_jax.types import (
    Array,
    Model,
    Net,
    NetBlock,
    Normaliser,
    Out,
    RealData,
    RequestError,
    Synthetic,
    TrainSet,
    choice,
)
from tests.golden_weights import GOLDEN, cifar_normalised, deterministic

NAMES = ("block1", "block2", "block3", "pool3", "centre", "discrim")
SHAPE = (32, 32, 3)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "cafe.npz") as file:
        return dict(file)


def network(golden: dict[str, np.ndarray], dtype: Any = "float32") -> tuple[FlaxNet, Model]:
    net = ConvNet(3, 16, dtype=dtype).build(SHAPE, 10)
    weights = deterministic(golden["names"], golden["shapes"], golden["roles"])
    return net, from_torch(net, {name: w.astype(dtype) for name, w in weights.items()})


def images(golden: dict[str, np.ndarray], dtype: Any = "float32") -> tuple[Array, Array]:
    """Real [10, 8, ...] and synthetic [10, 2, ...] images in network space, normalised in float32."""
    real = cifar_normalised(golden["real_u8"].reshape(-1, 3, 32, 32)).reshape(10, 8, *SHAPE)
    syn = cifar_normalised(golden["syn_u8"]).reshape(10, 2, *SHAPE)
    return jnp.asarray(real, dtype), jnp.asarray(syn, dtype)


def channels_first(x: Array) -> np.ndarray:
    """[10, 2, H, W, c] -> [20, c, H, W]"""
    return np.asarray(x).reshape(-1, *SHAPE).transpose(0, 3, 1, 2)


def statistics(x: Array) -> np.ndarray:
    flat = channels_first(x).reshape(-1)
    return np.asarray([flat.sum(), np.linalg.norm(flat), np.sum(flat * np.cos(0.37 * np.arange(flat.size)))])


def flat_terms(net: Net, model: Model, real: Array, syn: Array) -> Array:
    """The golden order: block1, block2, block3, pool3, centre, discrim."""
    terms = alignment_terms(net, model, real, syn)
    return jnp.stack([*terms.blocks, terms.pooled, terms.centre, terms.discrimination])


# ------------------------------------------------------------------ the loss


def test_every_term_and_its_derivative(golden: dict[str, np.ndarray]) -> None:
    net, model = network(golden)
    real, syn = images(golden)

    @jax.jit
    def terms_and_gradients(syn: Array) -> tuple[Array, Array]:
        terms, pull = jax.vjp(lambda syn: flat_terms(net, model, real, syn), syn)
        of_terms_and_total = jnp.concatenate([jnp.eye(6), jnp.asarray(golden["weights"][None, :6], jnp.float32)])
        return terms, jax.lax.map(lambda cotangent: pull(cotangent)[0], of_terms_and_total)

    terms, (*gradients, of_total) = terms_and_gradients(syn)
    np.testing.assert_array_equal(golden["term_names"][:6], NAMES)
    np.testing.assert_allclose(terms, golden["terms"][:6], rtol=3e-6)
    for name, gradient, theirs in zip(NAMES, gradients, golden["dterm"], strict=True):
        ours = channels_first(gradient)[golden["dterm_images"]]
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max(), err_msg=name)
    largest = np.abs(golden["dsyn"]).max()
    np.testing.assert_allclose(channels_first(of_total), golden["dsyn"], rtol=0, atol=1e-5 * largest)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_loss_and_its_derivative_in_double_precision(golden: dict[str, np.ndarray]) -> None:
    """With the published weights, and with others that tell the layers apart (the defaults are pairwise equal)."""
    net, model = network(golden, "float64")
    real, syn = images(golden, "float64")
    names = ("shallow", "middle", "deep", "pooled", "", "discrimination", "")
    other = {name: weight for name, weight in zip(names, golden["alt_weights"].tolist(), strict=True) if name}

    @jax.jit
    def loss_and_gradient(objective: LayerwiseAlignment) -> tuple[Array, Array]:
        def loss(syn: Array) -> Array:
            return objective.set_loss(net, model, real, Synthetic(syn), jax.random.key(0))

        return jax.value_and_grad(loss)(syn)

    # Theirs also has the network's own cross-entropy on the real images, on which nothing depends.
    logits = jax.jit(lambda x: net.apply(model, x, True)[0].logits)(real.reshape(-1, *SHAPE))
    ce_real = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.repeat(jnp.arange(10), 8)).mean()
    np.testing.assert_allclose(ce_real, golden["terms_f64"][6], rtol=1e-12)
    for prefix, objective in (("", LayerwiseAlignment()), ("alt_", LayerwiseAlignment(**other))):
        loss, gradient = loss_and_gradient(objective)
        np.testing.assert_allclose(loss + ce_real, golden[f"{prefix}total_f64"], rtol=1e-12)
        np.testing.assert_allclose(statistics(gradient), golden[f"{prefix}dsyn_stats_f64"], rtol=1e-10)


@dataclass(frozen=True)
class Pyramid:
    """Blocks without weights: the d-th is the image shrunk d times, then times d + 1."""

    depth: int

    def init(self, key: Array) -> Model:
        return Model({}, {})

    def apply(self, model: Model, x: Array, train: bool) -> tuple[Out, Any]:
        blocks = [NetBlock((d + 1) * x[:, :: 2**d], (d + 1) * x[:, :: 2 ** (d + 1)]) for d in range(self.depth)]
        embedding = blocks[-1].after.reshape(len(x), -1)
        return Out(embedding, tuple(blocks), embedding), {}


@pytest.mark.parametrize(("depth", "weights"), [(1, [5]), (2, [3, 5]), (5, [2, 2, 2, 3, 5])])
def test_any_depth_shape_and_class_count(depth: int, weights: list[int]) -> None:
    objective = LayerwiseAlignment(shallow=2.0, middle=3.0, deep=5.0, pooled=7.0, discrimination=11.0)
    real, syn = np.random.default_rng(depth).normal(size=(2, 3, 4, 32, 5, 2)).astype(np.float32)

    @jax.jit
    def loss_and_terms(real: Array, syn: Array) -> tuple[Array, Terms]:
        net, model, key = Pyramid(depth), Model({}, {}), jax.random.key(0)
        loss = objective.set_loss(net, model, real, Synthetic(syn), key)
        return loss, alignment_terms(net, model, real, syn)

    loss, terms = loss_and_terms(real, syn)
    for d, term in enumerate(terms.blocks):
        between = real.mean(axis=1)[:, :: 2**d] - syn.mean(axis=1)[:, :: 2**d]
        np.testing.assert_allclose(term, (d + 1) ** 2 * np.sum(between**2), rtol=1e-4)
    expected = np.dot(weights, terms.blocks) + 8 * terms.pooled + 11 * terms.discrimination
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    loss, terms = loss_and_terms(real, real)
    np.testing.assert_allclose(loss, 11 * terms.discrimination, rtol=1e-6)


# ------------------------------------------------------------------ the two loops


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
    """Right on exactly ``hits[t]`` of 128 images of each of ten classes, where t counts the steps it was trained.

    An image shows its class as a number. The steps are counted in the running statistics.
    """

    hits: tuple[int, ...]

    def init(self, key: Array) -> Model:
        return Model({"w": jnp.zeros(())}, {"steps": jnp.zeros((), jnp.int32)})

    def apply(self, model: Model, x: Array, train: bool) -> tuple[Out, Any]:
        label = jnp.round(x[:, 0, 0, 0]).astype(jnp.int32)
        hits = jnp.asarray(self.hits)[model.stats["steps"]]
        right = jnp.arange(len(x)) < hits // 10 + jnp.where(label < hits % 10, 1, 0)
        logits = jax.nn.one_hot(jnp.where(right, label, (label + 1) % 10), 10) + model.params["w"]
        return Out(logits, (), x), {"steps": model.stats["steps"] + 1}


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

    # No reading moves by less than nothing, so phases take ten epochs: the outer watcher reads every tenth figure.
    script, live, steps = jnp.repeat(golden["outer_hits"], 10, axis=1), start(), np.zeros(8, int)
    for step in range(1, 33):
        live = updated(script, tuple(live), replace(update, moved=-1.0))
        leave = jax.vmap(update.leave)(live[1])
        steps[np.asarray(leave) & (steps == 0)] = step
        trained = np.asarray(live[0].stats["steps"])
        np.testing.assert_array_equal(trained[steps == step], 10 * (step - 1), "no training after leaving")
    np.testing.assert_array_equal(steps, golden["outer_steps"])

    # One phase, whose first reading follows its first epoch.
    script = jnp.pad(golden["inner_hits"], ((0, 0), (1, 600 - 61)))
    trained = updated(script, start(), update)[0].stats["steps"]
    np.testing.assert_array_equal(trained, np.minimum(golden["inner_steps"], 30), "as scripted, or bounded")


@choice
class FromPool(RandomInit):
    """The models of the pool, as they are."""

    size: ClassVar[int] = 1

    def sample(self, net: Net, pool: Model, live: int, key: Array) -> Model:
        return pool


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_whole_outer_iteration(golden: dict[str, np.ndarray]) -> None:
    net, model = network(golden, "float64")
    real, syn = images(golden, "float64")
    data = RealData(
        images=real.reshape(-1, *SHAPE),  # in network space already: normalised in float32, as theirs
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
    state = init_state(problem)
    state = state._replace(
        synthetic=Synthetic(syn),
        optimiser=Synthetic(spec.optimiser.init(syn), *state.optimiser[1:]),
        loss=jnp.zeros(()),
    )

    # Optimised, unlike the suite's other programs: it trains for 131 epochs.
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


# ------------------------------------------------------------------ settings


def test_image_rate_is_halved_as_published(golden: dict[str, np.ndarray]) -> None:
    ours = 0.1 * jax.vmap(lambda outer: CAFE.optimiser.schedule(outer, 2000))(jnp.arange(2001))
    np.testing.assert_allclose(ours, golden["lr_img"], rtol=1e-6)


def test_preset_has_the_published_numbers() -> None:
    spec = resolve("cafe", "cifar10", ipc=10).spec
    assert spec.optimiser == SGD(0.1, 0.5, (0.6, 0.8, 0.9))
    assert isinstance(spec.update, DynamicTraining) and spec.update.optimiser == NetworkSGD(0.01, 0.0, 0.0)


def test_bad_input() -> None:
    for field in ("max_epochs", "images", "batch"):
        with pytest.raises(RequestError, match=field):
            replace(DynamicTraining(), **{field: 0}).validate()
    with pytest.raises(RequestError, match="halve_at"):
        check(replace(CAFE, optimiser=SGD(halve_at=(1.5,))), SHAPE, [9, 9])
