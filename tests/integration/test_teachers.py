"""Tests soft labels from the pool: their values, and how a run stores and scores them."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.axes.models import EarlyStagePool, ExpertTrajectories
from distill_jax.checkpoint import load_pool
from distill_jax.cli import distill, evaluate, export
from distill_jax.distilled import DistilledSet
from distill_jax.formats import FORMATS, read
from distill_jax.nets import ConvNet
from distill_jax.teachers import with_teacher_labels
from distill_jax.types import Model
from tests.sets import C, made
from tests.tiny import NET, PLAIN, POOL, SHORT

RUN = ["acc_dd", "digits", *NET, *POOL, *SHORT, *PLAIN, "--outer-steps", "1", "--baselines"]


def test_labels_are_mean_probabilities_in_evaluation_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill_jax.teachers.forward_batch", lambda images: 20)
    hard = made()
    net = ConvNet(1, 4, norm="batch").build(hard.shape, C)
    teachers = jax.vmap(net.init)(jax.random.split(jax.random.key(0), 2))
    # No batch of these images has such statistics, so training mode would give other labels.
    teachers = teachers._replace(stats=jax.tree.map(lambda a: a + 0.5, teachers.stats))
    soft = with_teacher_labels(hard, net, teachers)
    x = jnp.asarray(hard.arrays()[0])
    each = [jax.nn.softmax(net.apply(jax.tree.map(lambda a: a[i], teachers), x, False)[0].logits) for i in (0, 1)]  # noqa: B023
    assert hard.card["packed"] and len(x) == 30
    np.testing.assert_allclose(soft.targets(), np.mean(each, axis=0), atol=1e-6)
    np.testing.assert_array_equal(soft.images, hard.images)


def test_the_teachers_of_each_model_source() -> None:
    pool = Model({"w": jnp.arange(6.0).reshape(2, 3)}, {}, {"w": jnp.ones((2, 3))})
    assert EarlyStagePool(ahead=1).teachers(pool).target is None
    experts = ExpertTrajectories().teachers(pool._replace(target=None))
    np.testing.assert_array_equal(experts.params["w"], [2, 5])


def test_a_run_labels_its_images_and_is_scored_by_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = [*RUN, "--workdir", str(tmp_path / "run")]
    assert distill.main(line) == 0
    hard = DistilledSet.load(tmp_path / "run" / "distilled.npz")
    # A finished run can also get soft labels, without distilling again.
    capsys.readouterr()
    assert distill.main([*line, "--resume", "--labels", "soft", "--repeats", "3"]) == 0
    assert "distilling" not in capsys.readouterr().err
    soft = DistilledSet.load(tmp_path / "run" / "distilled.npz")
    np.testing.assert_array_equal(soft.images, hard.images)
    assert (hard.card["labels"], soft.card["labels"]) == ("hard", "soft")
    pool, _ = load_pool(tmp_path / "run" / "pool")
    expected = with_teacher_labels(hard, ConvNet(1, 4).build((8, 8, 1), 10), EarlyStagePool().teachers(pool))
    np.testing.assert_allclose(soft.targets(), expected.targets(), atol=1e-6)

    assert distill.main([*RUN, "--labels", "soft", "--repeats", "3", "--workdir", str(tmp_path / "at once")]) == 0
    at_once = DistilledSet.load(tmp_path / "at once" / "distilled.npz")
    assert at_once.card == soft.card
    np.testing.assert_array_equal(at_once.targets(), soft.targets())

    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (
        result["config"]["spec"]["labels"] == {"choice": "SoftLabels"}
        and soft.card["score"] == result["accuracy"] != hard.card["score"]
    )
    capsys.readouterr()
    assert evaluate.main([str(tmp_path / "run"), "--dataset", "digits", "--repeats", "3"]) == 0
    assert f"{result['accuracy']['mean']:.2f} ± {result['accuracy']['std']:.2f}" in capsys.readouterr().out
    assert export.main([str(tmp_path / "run"), "dd-ranking", str(tmp_path / "out")]) == 0
    np.testing.assert_array_equal(read(FORMATS["dd-ranking"], tmp_path / "out").targets(), soft.targets())


def test_a_method_without_teachers_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert distill.main(["idc", "digits", "--labels", "soft", "--workdir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "labels soft" in said and "models RandomInit" in said and not (tmp_path / "run").exists()
