"""Tests which options of a command line ``ablate`` sweeps."""

import pytest

from distill_jax.axes.init import Mix
from distill_jax.axes.models import EarlyStagePool, RandomInit
from distill_jax.axes.perturb import NoPerturbation
from distill_jax.cli import ablate
from distill_jax.cli.ablation.swept import fitting, parse, take_swept
from distill_jax.cli.request import arguments
from distill_jax.types import RequestError


def test_swept_options_are_separated_from_the_rest():
    argv = ["acc_dd", "--perturb.max", "0", "1e-1", "digits", "--ipc", "10", "--update.optimiser.lr", "0.1"]
    assert take_swept(argv) == (
        {"perturb.max": [0, 0.1]},
        ["acc_dd", "digits", "--ipc", "10", "--update.optimiser.lr", "0.1"],
    )


def test_the_short_form_of_the_factor_is_swept_and_other_options_of_the_command_are_not() -> None:
    swept, rest, _, _ = parse(["idc", "digits", "--factor", "1", "2"], ablate.Ablate)
    assert swept == {"factor": [1, 2]} and "--factor" not in rest
    with pytest.raises(RequestError, match="--seed takes one value"):
        parse(["idc", "digits", "--seed", "1", "2"], ablate.Ablate)


def test_names_are_swept_where_they_cannot_be_method_and_dataset():
    line = ["acc_dd", "digits", "--subset", "1", "2", "--init", "random", "mix", "--held-out", "--objective.head"]
    swept, rest, _, _ = parse([*line, "true", "false"], ablate.Ablate)
    assert swept == {"init": ["random", "mix"], "objective.head": [True, False]}
    assert rest == ["acc_dd", "digits", "--subset", "1", "2", "--held-out"]
    line = ["--init", "random", "acc_dd", "digits"]
    assert take_swept(line) == ({}, line)


def test_swept_choices_take_the_options_that_they_have():
    first = ["acc_dd", "digits", "--models.size", "3", "--models.augment.strategy="]
    rest = [*first, "--models.epochs", "1", "--held-out", "--seeds", "1"]
    assert fitting(rest, "models", RandomInit()) == ["acc_dd", "digits", "--held-out", "--seeds", "1"]
    assert fitting(rest, "models", EarlyStagePool()) == fitting(rest, "init", Mix()) == rest
    found = ablate._setup(rest, {"models": "random", "perturb": "none"}, {}).spec
    assert isinstance(found.models, RandomInit) and isinstance(found.perturb, NoPerturbation)
    assert ablate._setup(rest, {"models": "early-stage"}, {}).spec.models.size == 3


def test_flags_of_the_runner_take_no_value():
    argv = ["--held-out", "acc_dd", "digits"]
    options = arguments.parse(argv, ablate.Ablate)[0]
    assert (options.held_out, options.method, options.dataset) == (True, "acc_dd", "digits")
