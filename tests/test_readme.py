"""What the README promises."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.job import Keys

README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.mark.slow
def test_the_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict = {}
    exec(re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0], names)
    assert names["images"].shape == (10, 1, 8, 8, 1) and np.isfinite(names["images"]).all()
    assert capsys.readouterr().out.startswith("0 ")


def test_every_runner_it_names_exists() -> None:
    named = set(re.findall(r"python -m (experiments\.\w+)", README))
    assert named and all((Path(__file__).parents[1] / f"{name.replace('.', '/')}.py").exists() for name in named)


def test_a_prepared_problem_takes_the_path_of_the_runner() -> None:
    """``loop.prepare`` splits a seed in two, the runner in more."""
    for mine, runners in zip(jax.random.split(jax.random.key(3)), Keys.of(3), strict=False):
        np.testing.assert_array_equal(jax.random.key_data(mine), jax.random.key_data(runners))
