"""Tests the promises of the README."""

import re
from pathlib import Path

import numpy as np
import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.mark.slow
def test_the_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict = {}
    exec(re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0], names)
    assert names["images"].shape == (10, 8, 8, 1) and np.isfinite(names["images"]).all()
    assert capsys.readouterr().out.startswith("0 ")


def test_what_a_command_needs_is_said_before_it() -> None:
    """In a fresh clone only make works, so the README activates the environment and installs the reader of cifar10
    first.
    """
    first = README.index("python -m experiments.")
    assert README.index(". .venv/bin/activate") < first and README.index(",tfds]'") < README.index("cifar10 --ipc 10")


def test_every_runner_it_names_exists() -> None:
    named = set(re.findall(r"python -m (experiments\.\w+)", README))
    assert named and all((Path(__file__).parents[1] / f"{name.replace('.', '/')}.py").exists() for name in named)
