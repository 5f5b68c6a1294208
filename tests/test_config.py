"""Tests settings files, which override the recipe and are overridden by the command line, and their errors."""

import json
from pathlib import Path

import pytest

from distill_jax.cli import ablate
from distill_jax.cli.distill import Distill
from distill_jax.cli.request import arguments
from distill_jax.cli.session.setup import set_up
from distill_jax.cli.tune import Tune
from distill_jax.cli.tuning import result as tuned


@pytest.fixture
def settings(tmp_path: Path):
    def write(content: object) -> str:
        path = tmp_path / "settings.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


def test_recipe_then_file_then_command_line(settings):
    file = settings({"recipe": "mnist", "optimiser.lr": 0.5, "optimiser.momentum": 0.25, "ipc": 2, "mean": [0.5]})
    line = ["acc_dd", "digits", "--std", "0.25", "--config", file, "--optimiser.momentum", "0.75"]
    _, recipe, experiment = arguments.parse(line, Distill)
    spec = experiment.spec
    assert recipe == "mnist" and spec.objective.metric == "l1"  # type: ignore[attr-defined]
    assert (spec.optimiser.lr, spec.optimiser.momentum) == (0.5, 0.75)  # type: ignore[attr-defined]
    assert (spec.ipc, spec.mean, spec.std) == (2, (0.5,), (0.25,))
    assert arguments.parse([*line, "--recipe=cifar10"], Distill)[1] == "cifar10"
    assert arguments.parse(["--config", file, "acc_dd", "digits", "--ipc", "3", "--std", "1"], Distill)[2].spec.ipc == 3


def test_resolved_values_are_what_a_run_records(settings):
    line, file = ["acc_dd", "digits"], settings({"perturb.max": 0.3, "update.augment.strategy": "", "factor": 1})
    given = arguments.request([*line, "--perturb.max", "0.3", "--update.augment.strategy", ""], Distill)
    assert set_up(arguments.request([*line, "--config", file], Distill)).describe() == set_up(given).describe()


@pytest.mark.parametrize(
    "line",
    [
        "acc_dd digits",
        "idc digits --ipc 2 --models early-stage --models.size 2 --perturb directions --perturb.max 0.5",
        "acc_dd digits --recipe mnist --factor 1 --mean 0.1 --std 0.2",
        "cafe digits --optimiser.halve-at 0.5 0.75 --protocol dsa --protocol.epochs 7",
        "dm digits --protocol.augment none --models early-stage --models.augment none --augment siamese --seed 3",
        "ncfm digits --models.no-trained --objective feature --parameterisation.factor 2",
    ],
)
def test_the_file_of_tune_records_its_command_line(line: str, settings):
    asked = arguments.request(line.split(), Tune)
    written = tuned.settings(line.split(), Tune, asked)
    method, dataset = line.split()[:2]
    again = arguments.request([method, dataset, "--config", settings(written)], Distill)
    assert (again.recipe, again.experiment) == (asked.recipe, asked.experiment)
    rewritten = tuned.settings([method, dataset, "--config", settings(written)], Tune, again)
    assert json.dumps(rewritten, sort_keys=True) == json.dumps(written, sort_keys=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"optimiser.lrr": 1.0}, "optimiser.lrr is unknown: did you mean optimiser.lr?"),
        ({"objective.rate": 1.0}, "objective.rate is unknown: add --objective trajectory"),
        ({"protocol.epoch": 3}, "protocol.epoch is unknown: did you mean protocol.epochs?"),
        ({"recipes": "mnist"}, "recipes is unknown"),
        ({"net": {"width": 8}}, 'net is an object: write each field by name, as in "net.width": 8'),
        ({"seed": 3}, "seed is no setting: give --seed on the command line"),
        ({"optimiser.lr": None}, "optimiser.lr has no value"),
        ({"recipe": "mnits"}, "settings.json: unknown recipe 'mnits': did you mean mnist?"),
        ({"optimiser.lr": -1}, "settings.json: optimiser.lr is -1: a learning rate"),
        ({"protocol.rate": -1}, "settings.json: protocol.rate is -1"),
        ({"net.width": "x"}, "settings.json: Error parsing --net.width"),
        ({"net.width": [4, 8]}, "settings.json: net.width is [4, 8]: give one value"),
        ({"objective.head": "true"}, 'settings.json: objective.head is "true": write true or false, without quotes'),
        ({"schema": 1, "spec": {}}, "the config.json of a run"),
        ([1], "has no settings"),
        ("{", "cannot be read"),
    ],
)
def test_one_line_says_what_is_wrong(content, message: str, settings, capsys: pytest.CaptureFixture[str]):
    assert ablate.main(["acc_dd", "digits", "--config", settings(content), "--perturb.max", "0", "1"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    file = settings({"optimiser.lr": -1})
    assert ablate.main(["acc_dd", "digits", "--config", file, "--optimiser.lr", "-2", "--perturb.max", "0", "1"]) == 2
    assert capsys.readouterr().err.startswith("error: optimiser.lr is -2"), "not the value in the file"
    assert ablate.main(["acc_dd", "digits", "--config", "nowhere.json", "--perturb.max", "0", "1"]) == 2
    assert "nowhere.json cannot be read" in capsys.readouterr().err
