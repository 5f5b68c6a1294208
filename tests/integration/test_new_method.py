"""Tests the page on user-defined methods by running its files and commands as they stand there."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import benchmark
from distill_jax.cli import ablate, distill
from tests.tiny import NET, PLAIN, ROOT, SHORT
from tests.toy import data, problem

PAGE = (ROOT / "docs" / "new_method.md").read_text(encoding="utf-8")
FILES = {text.split()[1]: text for text in re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)}
COMMANDS = re.findall(r"^python -m experiments\..*$", PAGE, re.MULTILINE)
RUNNERS = {"distill": distill, "ablate": ablate, "benchmark": benchmark}
ONE_STEP = [
    *NET,
    *SHORT,
    *PLAIN,
    "--selector.batch",
    "4",
    "--inner-steps",
    "2",
    "--outer-steps",
    "1",
    "--workdir",
    "run",
]
LESS = {
    "distill": [*ONE_STEP, "--baselines"],
    "ablate": [*ONE_STEP, "--seeds", "1", "--repeats", "1"],
    "benchmark": ["--pairs", "1", "--shapes", "tiny"],
}
POOL = ["--models.size", "1", "--models.epochs", "0"]
FEW = {"distill": POOL, "ablate": POOL, "benchmark": []}


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder outside the package with the files of the page. It is on Python's module path."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in FILES:
        sys.modules.pop(Path(name).stem, None)


def test_the_objective_has_at_most_forty_lines() -> None:
    assert set(FILES) == {"my_objective.py", "my_models.py", "my_selector.py"}
    assert max(len(text.splitlines()) for text in FILES.values()) <= 40


@pytest.mark.parametrize("command", [*COMMANDS[:-1], pytest.param(COMMANDS[-1], marks=pytest.mark.slow)])
def test_the_commands_of_the_page_run(command: str, outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "MIN_SECONDS", 0.0)
    runner, *argv = shlex.split(command.removeprefix("python -m experiments."))
    # Options that come later win.
    assert RUNNERS[runner].main([*argv, *LESS[runner], *([] if "my_models" in command else FEW[runner])]) == 0
    if runner != "benchmark":
        config = json.loads(Path("run/config.json").read_text())
        spec = config["spec"]
        assert spec["objective"] == {"choice": "my_objective:StatisticsMatching", "spread": 1.0}
        if "spread" in command:
            assert config["swept"]["objective.spread"] == [0.5, 2]
        own, usual = ("my_models:SmallInit", "my_selector:Doubtful"), ("EarlyStagePool", "RandomBatch")
        others = own if "my_models" in command else usual
        assert (spec["models"]["choice"], spec["selector"]["choice"]) == others


def test_the_objective_is_zero_on_equal_images_and_has_a_gradient_on_others() -> None:
    objective = importlib.import_module("my_objective").StatisticsMatching()
    toy = problem("acc_dd", objective=objective)
    model, key = toy.net.init(jax.random.key(0)), jax.random.key(1)
    images = data().images[:6].astype("float32") / 255

    @jax.jit
    def loss(syn: jax.Array) -> jax.Array:
        return objective.class_loss(toy.net, model, images, syn, 0, key)

    assert float(loss(images)) < 1e-9  # XLA may add up the two sides in different orders
    value, gradient = jax.jit(jax.value_and_grad(loss))(images[:1])
    assert float(value) > 0 and np.isfinite(gradient).all() and np.abs(gradient).max() > 0


def test_a_selector_chooses_the_images_of_lowest_confidence() -> None:
    toy = problem("acc_dd", selector=importlib.import_module("my_selector").Doubtful(2))
    model, real = toy.net.init(jax.random.key(0)), data()
    none = jnp.zeros((), jnp.int32)
    rows, _ = toy.spec.selector.select(toy.net, model, real, (), none, jax.random.key(1))
    assert rows.shape == (2, 2)
    x = (real.images.astype("float32") / 255 - float(real.normaliser.mean[0])) / float(real.normaliser.std[0])
    sure = jax.nn.softmax(toy.net.apply(model, x, train=False)[0].logits)
    # Of nine images of a class eight are candidates, so the two chosen are among the three of lowest confidence.
    assert set(np.asarray(rows[0])) <= set(np.argsort(sure[:9, 0])[:3].tolist())


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("step --objective my_objective:Statistics", "cannot be imported"),
        ("step --objective trajectory", "needs models with targets"),
        ("step --objective feature --peer torch", "leave out --objective or --peer"),
        ("evaluate --objective feature", "leave --objective out"),
    ],
)
def test_a_benchmark_refuses(argv: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main([*argv.split(), "--shapes", "tiny"]) == 2
    assert said in capsys.readouterr().err
