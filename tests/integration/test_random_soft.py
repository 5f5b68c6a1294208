"""Tests the baseline of random images with soft labels, which is shown beside methods with soft or learned labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.axes.labels import SoftLabels
from distill_jax.cli import distill, evaluate, reproduce
from distill_jax.cli.process.interrupts import Interrupts
from distill_jax.cli.request.arguments import Common, parse, request
from distill_jax.cli.session import score
from distill_jax.cli.session.atomic import read_json
from distill_jax.cli.session.score import Scorer
from distill_jax.cli.session.workdir import COMPARED, COMPARED_RUNS, COMPARED_TABLE, DISTILLED, RESULT
from distill_jax.cli.tables.curve import training_set
from distill_jax.distill import init_state
from distill_jax.distilled import DistilledSet
from distill_jax.evaluation import IDC_PROTOCOL
from distill_jax.methods import BASELINES
from distill_jax.teachers import probabilities
from distill_jax.train import real_train_set
from distill_jax.train_many import Sets
from distill_jax.types import Model, RequestError, TrainSet
from tests import toy
from tests.integration.test_reproduce import UNAUGMENTED, rows
from tests.tiny import NET

QUICK = [*NET, *UNAUGMENTED, "--protocol.epochs", "2", "--repeats", "2", "--models.epochs", "1"]


def test_distill_labels_random_images_by_one_network_and_prints_their_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["random_soft", "digits", *QUICK, "--ipc", "2", "--baselines", "random", "random_soft"]
    assert distill.main([*line, "--workdir", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "ipc 2: images 5.0 KiB, labels 800 B" in said and "random_soft" in said
    result = read_json(tmp_path / RESULT)
    assert result["bytes"] == {"images": 20 * 64 * 4, "labels": 20 * 10 * 4} and result["steps"]["outer"] == 0
    assert len(result["baselines"]["random_soft"]["per_repeat"]) == 2
    made = DistilledSet.load(tmp_path / DISTILLED)
    assert made.card["labels"] == "soft" and made.soft is not None and (made.soft > 0).all()
    # Real images: 17 levels of grey.
    np.testing.assert_allclose(made.images * 16, np.round(made.images * 16), atol=0.04)
    assert "random real images, labelled by the pool" in (tmp_path / "report.html").read_text()
    assert evaluate.main([str(tmp_path), "--dataset", "digits", "--repeats", "1"]) == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("random_soft digits", ("random", "random_soft", "full")),
        ("dm npz:a.npz --models early-stage --labels soft", ("random", "random_soft")),
        ("mtt npz:a.npz --labels learned --syn-batch 0", ("random", "random_soft")),
        ("dm npz:a.npz", ("random",)),
    ],
)
def test_random_soft_is_the_default_baseline_of_soft_and_learned_labels(words: str, expected: tuple[str, ...]) -> None:
    options, _, experiment = parse(words.split(), distill.Distill)
    assert options.resolved_baselines(experiment.spec) == expected


def test_a_method_without_a_pool_cannot_label_random_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["dm", "digits", "--baselines", "random_soft", "--workdir", str(tmp_path / "new")]
    assert distill.main(line) == 2
    assert "no pool to label random images" in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_the_baseline_trains_on_the_labels_of_the_teachers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score, "AT_ONCE", 3)
    data, net = toy.data(), toy.SMALL["spec.net"].build(toy.SHAPE, 2)
    teachers: Model = jax.vmap(net.init)(jax.random.split(jax.random.key(0), 2))
    test = data.images, data.labels
    with Interrupts() as interrupts:
        scorer = Scorer(net, IDC_PROTOCOL, test, data.normaliser, jax.random.key(1), interrupts, teachers)
    sets = score.random_soft(scorer, data, 3, 6, 4, jax.random.key(2)).sets
    drawn = np.asarray(sets.rows)
    assert drawn.shape == (4, 6) and len({tuple(sorted(row)) for row in drawn.tolist()}) > 1
    np.testing.assert_array_equal(np.asarray(data.labels)[drawn], [[0, 0, 0, 1, 1, 1]] * 4)
    expected = probabilities(net, teachers, data.normaliser.to_network(data.images))
    np.testing.assert_allclose(sets.store.targets[drawn.ravel()], expected[drawn.ravel()], atol=1e-6)
    with pytest.raises(RequestError, match="needs trained networks as teachers"):
        score.random_soft(scorer._replace(teachers=None), data, 3, 6, 4, jax.random.key(2))


def test_random_images_are_unchanged_in_a_shared_store_and_one_program_trains_on_both() -> None:
    data, key = toy.data(), jax.random.key(0)
    rows = score.random_rows(data, 3, 4, key)
    sets = Sets.same(TrainSet(jax.random.normal(key, (6, *toy.SHAPE)), jnp.eye(2)[jnp.arange(6) // 3]), 4)
    mine, random = score.share_store(sets, Sets(real_train_set(data), rows), data.normaliser)
    of, others, before, real = jax.tree.map(np.asarray, (mine, random, sets, real_train_set(data)))
    for ours, theirs in zip(of.store, before.store, strict=True):
        np.testing.assert_array_equal(ours[of.rows], theirs[before.rows])
    shown = (real.images / 255 - np.asarray(data.normaliser.mean)) / np.asarray(data.normaliser.std)
    np.testing.assert_allclose(others.store.images[others.rows], shown[np.asarray(rows)], atol=1e-6)
    np.testing.assert_array_equal(others.store.targets[others.rows], real.targets[np.asarray(rows)])
    assert jax.tree.map(jnp.shape, mine) == jax.tree.map(jnp.shape, random)
    fewer = Sets.same(sets.store, 3)
    assert score.share_store(fewer, random, data.normaliser) == (fewer, random)


def test_a_comparison_trains_on_the_soft_labels() -> None:
    problem = toy.problem("acc_dd", labels=SoftLabels())
    made = training_set(problem, init_state(problem))
    np.testing.assert_allclose(made.targets, probabilities(problem.net, problem.pool, made.images), atol=1e-6)
    hard = replace(problem, spec=toy.problem("acc_dd").spec)
    assert set(np.unique(training_set(hard, init_state(hard)).targets)) == {0, 1}


def test_compare_shows_random_images_under_the_same_labels(tmp_path: Path) -> None:
    soft = "soft: dm --models early-stage --models.size 1 --models.epochs 1 --labels soft --selector.batch 4"
    plain = "random_soft --models.epochs 1"
    line = ["compare", "--dataset", "digits", "--methods", soft, plain, "random", "--steps", "2", "--repeats", "2"]
    shared = ["--", "--protocol.epochs", "2", *UNAUGMENTED, *NET]
    assert reproduce.main([*line, "--workdir", str(tmp_path), *shared]) == 0
    table = (tmp_path / COMPARED_TABLE).read_text().splitlines()
    assert next(row for row in table if "accuracy %" in row).endswith("| random, same labels % |")
    assert [row["random_same_labels"] != "" for row in rows(tmp_path / COMPARED)] == [True, False, False]
    kept = read_json(tmp_path / COMPARED_RUNS)
    assert {len(points[-1][2]) for name, points in kept.items() if name.startswith("random")} == {20}
    assert reproduce.main([*line, "--workdir", str(tmp_path), "--resume", *shared]) == 0
    assert (tmp_path / COMPARED_TABLE).read_text().splitlines()[1:] == table[1:]


def test_rded_and_random_soft_have_no_steps_and_soft_labels() -> None:
    for method in ("rded", "random_soft"):
        spec = request([method, "digits"], Common).experiment.spec
        assert spec.steps == 0 and isinstance(spec.labels, SoftLabels) and method in BASELINES
