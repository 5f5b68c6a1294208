"""Tests ``experiments.evaluate``: what it trains, prints and writes."""

from __future__ import annotations

import json
import math
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.augment import NoAugment
from distill_jax.axes.parameterisation import Pixels
from distill_jax.cli import evaluate
from distill_jax.cli.process.interrupts import Interrupted
from distill_jax.cli.session import score
from distill_jax.cli.session.dd_ranking import dd_ranking_scores
from distill_jax.cli.session.score import BASELINES, Scorer, interval, summary
from distill_jax.data import load
from distill_jax.distilled import DistilledSet
from distill_jax.evaluation import PROTOCOLS, Protocol, repeated
from distill_jax.nets import ConvNet
from distill_jax.spec import to_json
from distill_jax.train_many import Sets

SMALL = ConvNet(depth=1, width=4)


def digits(**card) -> DistilledSet:
    """Return a set of one real image of each class."""
    data = load("digits")
    real = data.real_data()
    images = real.images[real.index[:, :1]].astype(jnp.float32) / 255
    about = {"method": "dsa", "dataset": "digits", "net": to_json(SMALL), **card}
    return DistilledSet.of(Pixels(), images, data.class_names, real.normaliser, about)


def softened(distilled: DistilledSet) -> DistilledSet:
    return distilled.with_soft(0.9 * distilled.targets() + 0.1 / distilled.classes)


def evaluated(path: Path, *options: str, repeats: int = 2) -> dict:
    """Return the last evaluation that was written for the set in the folder ``path``."""
    argv = [str(path / "mine.npz"), "--dataset", "digits", "--repeats", str(repeats), *options]
    assert evaluate.main(argv) == 0
    written = json.loads((path / "evaluation.json").read_text())
    assert list(written) == ["schema", "evaluations"] and written["schema"] == 2
    return written["evaluations"][-1]


def test_the_evaluation_has_all_fields(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    distilled = digits(protocol=to_json(Protocol(epochs=2, cutmix=0.0)))
    distilled.save(tmp_path / "mine.npz")
    found = evaluated(tmp_path, "--nets", "convnet", "mlp", repeats=3)
    assert {path.name for path in tmp_path.iterdir()} == {"mine.npz", "evaluation.json"}
    assert list(found) == [
        "set", "dataset", "protocol", "repeats", "seed", "nets", "seconds", "peak_bytes", "environment", "test_data",
    ]  # fmt: skip
    about = {"file": "mine.npz", "hash": distilled.card["hash"], "factor": 1, "labels": "hard", "images": 10, "ipc": 1}
    assert found["set"] == about | {"method": "dsa"}
    assert found["dataset"] == {"name": "digits", "fingerprint": load("digits").fingerprint, "test_images": 450}
    protocol = found["protocol"]
    assert (protocol["name"], protocol["epochs"], protocol["schedule"], protocol["rate"]) == ("idc", 2, "thirds", 0.01)
    assert "tested once" in found["test_data"] and "Nothing was selected on the test data" in found["test_data"]
    assert list(found["nets"]) == ["convnet", "mlp"]
    assert found["nets"]["convnet"]["net"]["width"] == 4, "the network of the distillation, with the same settings"

    shown = capsys.readouterr().out
    for name, of in found["nets"].items():
        accuracy, (low, high) = of["accuracy"], of["interval_95"]
        assert len(accuracy["per_repeat"]) == found["repeats"] == 3 and accuracy["mean"] == pytest.approx(
            np.mean(accuracy["per_repeat"])
        )
        assert low <= accuracy["mean"] <= high
        assert f"{name}" in shown and f"{accuracy['mean']:.2f} ± {accuracy['std']:.2f}" in shown
        assert f"{low:.2f} to {high:.2f}" in shown
    for phase in ("compile", "evaluate"):
        each = [of["seconds"][phase] for of in found["nets"].values()]
        assert found["seconds"][phase] == pytest.approx(sum(each), abs=0.01)
    assert found["test_data"] in shown and str(tmp_path / "evaluation.json") in shown

    again = evaluated(tmp_path, "--nets", "convnet", "mlp", repeats=3)
    assert [of["accuracy"] for of in again["nets"].values()] == [of["accuracy"] for of in found["nets"].values()]

    killed = json.loads((tmp_path / "evaluation.json").read_text())
    del killed["evaluations"][0]["nets"]["mlp"]
    (tmp_path / "evaluation.json").write_text(json.dumps(killed))
    resumed = evaluated(tmp_path, "--nets", "convnet", "mlp", "--resume", repeats=3)
    of_each = [of["seconds"]["evaluate"] for of in resumed["nets"].values()]
    assert resumed["seconds"]["evaluate"] == pytest.approx(sum(of_each), abs=0.01), "also of finished networks"

    # The same once more replaces the entry; another number of repeats is an entry of its own, without an interval.
    other = evaluated(tmp_path, "--nets", "mlp")
    entries = json.loads((tmp_path / "evaluation.json").read_text())["evaluations"]
    assert [entry["repeats"] for entry in entries] == [3, 2] and entries[0]["nets"] == resumed["nets"]
    assert other["nets"]["mlp"]["interval_95"] is None


def test_an_interrupted_evaluation_says_how_to_resume(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise Interrupted(signal.SIGINT)

    digits().save(tmp_path / "mine.npz")
    monkeypatch.setattr(Scorer, "score", interrupted)
    argv = [str(tmp_path / "mine.npz"), "--repeats", "1"]
    assert evaluate.main(argv) == 130
    assert capsys.readouterr().err.endswith(f"evaluate {argv[0]} --repeats 1 --resume\n")


def test_a_recipe_on_the_command_line_replaces_the_protocol_of_the_card() -> None:
    distilled = digits(protocol=to_json(Protocol(epochs=2, rate=0.5)))
    for recipe, epochs in ((None, 2), ("digits", 1000)):
        options = evaluate.Evaluate(Path("x"), "digits", recipe=recipe)
        assert evaluate._experiment(distilled, options).protocol.epochs == epochs


def test_the_interval_is_students() -> None:
    # t(0.975) is 4.303 for 2 degrees of freedom (from a table), and the sample 1, 2, 3 has standard deviation 1.
    low, high = interval(summary([1.0, 2.0, 3.0])) or (0, 0)
    assert (low, high) == pytest.approx((2 - 4.3027 / math.sqrt(3), 2 + 4.3027 / math.sqrt(3)), abs=1e-4)
    # One repeat has no spread, and the spread of two repeats is almost meaningless.
    assert interval(summary([1.0])) is interval(summary([1.0, 2.0])) is None
    assert summary([1.0])["std"] is None


def test_the_scores_of_a_single_repeat_have_no_deviation() -> None:
    accuracies, scores = (
        {name: summary([0.5]) for name in names.split()} for names in ("full random", "hlr ior lrs ars")
    )
    spent = {"compile": 0.0, "evaluate": 0.0}
    net = {"accuracy": summary([1.0]), "interval_95": None, "seconds": spent}
    net["ranking"] = {"accuracies": accuracies, "scores": scores}
    shown = evaluate.report({"nets": {"convnet": net}, "repeats": 1, "seconds": spent})
    assert shown.count("0.500") == 4 and "±" not in shown


def test_every_score_is_in_its_column() -> None:
    accuracies = {name: summary([percent]) for name, percent in (("full", 90.0), ("distilled", 60.0), ("random", 30.0))}
    scores = {name: summary([n / 10]) for n, name in enumerate(("ars", "hlr", "ior", "lrs"))}
    spent = {"compile": 0.0, "evaluate": 0.0}
    net = {"accuracy": summary([60.0]), "interval_95": (55.0, 65.0), "seconds": spent}
    net["ranking"] = {"accuracies": accuracies, "scores": scores}
    lines = evaluate.report({"nets": {"vit": net}, "repeats": 1, "seconds": spent}).splitlines()
    assert lines[1].split()[:6] == ["vit", "60.00", "55.00", "to", "65.00", "1"]
    assert lines[2].split() == ["net", "HLR", "IOR", "LRS", "ARS", "all", "data", "%", "random", "%"]
    assert lines[3].split() == ["vit", "0.100", "0.200", "0.300", "0.000", "90.00", "30.00"]


def test_soft_labels_are_trained_on() -> None:
    distilled = softened(digits())
    sets = repeated(distilled, 3)
    np.testing.assert_array_equal(sets.store.targets, distilled.soft)
    assert sets.rows.shape == (3, 10)


@pytest.mark.parametrize("recipe", ["digits", "cifar10"])
def test_a_protocol_mirrors_only_where_the_recipe_does(recipe: str) -> None:
    """A mirrored digit is not a digit, so the recipe turns mirroring off. MTT's images are trained on at their learned
    rate.
    """
    options = evaluate.Evaluate(Path("x"), "digits", protocol="dsa", recipe=recipe, epochs=7)
    protocol = evaluate._experiment(digits(rate=0.03), options).protocol
    assert (protocol.name, protocol.epochs, protocol.rate, protocol.batch) == ("dsa", 7, 0.03, 256)
    assert ("flip" in getattr(protocol.augment, "members", ())) == (recipe == "cifar10")


class Trained(NamedTuple):
    """The arguments of one call of ``Scorer.train``."""

    protocol: Protocol
    images: np.ndarray
    """[R, M, H, W, c]"""
    targets: np.ndarray
    """[R, M, C]"""


PERCENT = {
    "all images": [90.0, 80.0],
    "distilled": [60.0, 70.0],
    "random": [30.0, 50.0],
    "distilled, not augmented": [50.0, 40.0],
    "random, not augmented": [45.0, 10.0],
    "distilled, hard labels": [40.0, 65.0],
}
"""made up accuracies"""


@pytest.mark.parametrize("soft", [True, False])
def test_the_trainings_of_dd_ranking_and_its_scores(soft: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network is trained. Soft labels of random images come from the networks trained on all images."""
    calls: dict[str, Trained] = {}

    def train(self, what: str, sets: Sets, protocol: Protocol | None = None) -> str:
        images, targets = (np.asarray(part)[np.asarray(sets.rows)] for part in sets.store)
        calls[what] = Trained(protocol or self.protocol, images, targets)
        return what

    def probabilities(net, teachers, x):
        assert teachers == "all images"
        return np.full((len(x), 10), 0.1, np.float32)

    monkeypatch.setattr(Scorer, "train", train)
    monkeypatch.setattr(Scorer, "tested", lambda self, models: summary(PERCENT[models]))
    monkeypatch.setattr(score, "probabilities", probabilities)
    data = load("digits").real_data()
    index = np.asarray(data.index)

    def rows_of(ipc: int, repeats: int) -> np.ndarray:
        return np.asarray([index[:, 5 + r : 5 + r + ipc].reshape(-1) for r in range(repeats)])

    monkeypatch.setattr(score, "random_rows", lambda data, ipc, repeats, key: jnp.asarray(rows_of(ipc, repeats)))
    distilled = softened(digits(rate=0.02)) if soft else digits(rate=0.02)
    protocol, other = PROTOCOLS["dd-ranking"], cast(Any, None)
    scorer = Scorer(other, protocol, other, data.normaliser, other, other)
    found = dd_ranking_scores(scorer, distilled, data, 2, jax.random.key(0), full_epochs=7)

    own, plain = replace(protocol, rate=0.02), NoAugment()
    expected = {"all images": replace(protocol, epochs=7), "distilled": own, "random": protocol}
    expected |= {"distilled, not augmented": replace(own, augment=plain)}
    expected |= {"random, not augmented": replace(protocol, augment=plain)}
    expected |= {"distilled, hard labels": own} if soft else {}
    assert {what: call.protocol for what, call in calls.items()} == expected and found["full_epochs"] == 7
    assert calls["all images"].images.shape == (2, 1347, 8, 8, 1)
    for what, call in calls.items():
        if what.startswith("distilled"):
            np.testing.assert_allclose(call.images, [distilled.arrays()[0]] * 2, atol=1e-6)
            hard = what.endswith("hard labels") or not soft
            np.testing.assert_array_equal(call.targets, [np.eye(10) if hard else distilled.targets()] * 2)
    random, again = calls["random"], calls["random, not augmented"]
    shown = data.normaliser.to_network(data.images)[rows_of(1, 2)]
    np.testing.assert_allclose([random.images, again.images], [shown] * 2, atol=1e-6)
    np.testing.assert_allclose(random.targets, [np.full((10, 10), 0.1) if soft else np.eye(10)] * 2)

    # Full less distilled with hard labels, and distilled less random with and without augmentation.
    hlr = np.asarray([0.5, 0.15] if soft else [0.3, 0.1])
    augmented, unaugmented = np.asarray([0.3, 0.2]), np.asarray([0.05, 0.3])
    mapped = {"lrs": (augmented - hlr) / 2, "ars": (augmented + unaugmented) / 2}
    of = {name: (np.exp(alpha) - 1 / math.e) / (math.e - 1 / math.e) for name, alpha in mapped.items()}
    for name, values in {"hlr": hlr, "ior": augmented, **of}.items():
        np.testing.assert_allclose(found["scores"][name]["per_repeat"], values, rtol=1e-9)


def test_all_images_are_trained_on_for_as_many_steps_as_the_decoded_ones() -> None:
    data, other = load("digits").real_data(), cast(Any, None)
    scorer = Scorer(other, Protocol(epochs=50, batch=64), other, data.normaliser, other, other)
    of = BASELINES["full"](scorer, data, 1, 640, 3, other)
    assert of.protocol == replace(scorer.protocol, epochs=23)  # 10 steps per epoch, against 22
    np.testing.assert_array_equal(of.sets.rows, [np.arange(1347)] * 3)
    np.testing.assert_array_equal(of.sets.store.images, data.images)
    np.testing.assert_array_equal(np.argmax(of.sets.store.targets, axis=1), data.labels)


@pytest.mark.slow
def test_dd_ranking_scores_soft_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    softened(digits(rate=0.02)).save(tmp_path / "mine.npz")
    found = evaluated(tmp_path, "--protocol", "dd-ranking", "--epochs", "40", "--full-epochs", "1")
    of = found["nets"]["convnet"]
    ranking, accuracies = of["ranking"], of["ranking"]["accuracies"]
    assert ranking["full_epochs"] == 1 and found["protocol"]["epochs"] == 40 and found["set"]["labels"] == "soft"
    trained = ["full", "distilled", "random", "distilled_plain", "random_plain", "distilled_hard"]
    assert list(accuracies) == trained and of["accuracy"] == accuracies["distilled"]
    assert accuracies["distilled"] != accuracies["distilled_hard"] != accuracies["distilled_plain"]

    def mapped(alpha: float) -> float:
        return (math.exp(alpha) - math.exp(-1)) / (math.e - math.exp(-1))

    for r in range(2):
        full, mine, random, plain, other, hard = (accuracies[name]["per_repeat"][r] / 100 for name in trained)
        scores = {name: score["per_repeat"][r] for name, score in ranking["scores"].items()}
        assert scores["hlr"] == pytest.approx(full - hard) and scores["ior"] == pytest.approx(mine - random)
        assert scores["lrs"] == pytest.approx(mapped((scores["ior"] - scores["hlr"]) / 2))
        assert scores["ars"] == pytest.approx(mapped((mine - random + plain - other) / 2))
    lrs = ranking["scores"]["lrs"]
    assert f"{lrs['mean']:.3f} ± {lrs['std']:.3f}" in capsys.readouterr().out
