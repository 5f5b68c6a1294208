"""Tests the parsing of a command line into an experiment."""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from distill_jax.augment import NoAugment
from distill_jax.augment_photos import BasicAugment
from distill_jax.axes.models import EarlyStagePool, RandomInit
from distill_jax.axes.objective import GradientMatching
from distill_jax.axes.optimiser import SGD, Adam
from distill_jax.axes.perturb import Directions
from distill_jax.cli.process.run_command import run_command
from distill_jax.cli.request import arguments
from distill_jax.cli.request.choices import choice_name
from distill_jax.contracts import ClassObjective
from distill_jax.evaluation import PROTOCOLS
from distill_jax.methods import ACC_DD, PRESETS
from distill_jax.nets import ConvNet
from distill_jax.recipes import resolve
from distill_jax.types import RequestError, choice


@dataclass(frozen=True)
class Options(arguments.Common):
    """Options of a runner."""

    repeats: int = 5
    """number of times"""


@choice
class Doubled(GradientMatching):
    """A user-defined objective."""

    weight: float = 2.0

    def class_loss(self, *args):
        return self.weight * super().class_loss(*args)


@choice
class OwnRate(SGD):
    """An optimiser with a field that recipes set in the library's optimisers."""

    lr: float = 7.0


class Undecorated(Doubled):
    """Its fields are those of its base."""

    other: float = 1.0


@choice
class Switched(GradientMatching):
    """An objective with a flag."""

    centre: bool = False


@choice
class Unfinished(ClassObjective):
    """An objective without a loss."""


def parse(line: str, **kwargs):
    return arguments.parse(line.split(), Options, **kwargs)


def test_without_options_the_experiment_is_the_preset_with_its_recipe() -> None:
    options, recipe, experiment = parse("acc_dd cifar10")
    assert (options.method, options.dataset, options.repeats, options.seed, recipe) == (
        "acc_dd",
        "cifar10",
        5,
        0,
        "cifar10",
    )
    assert experiment == resolve("acc_dd", "cifar10")


@pytest.mark.parametrize("source", ["npz:somewhere.npz", "folder:some/where", "tf_flowers"])
def test_other_data_sets_use_the_generic_recipe(source: str) -> None:
    assert parse(f"idc {source}")[1:] == ("generic", resolve("idc", "generic"))
    assert parse(f"idc {source} --recipe mnist")[1:] == ("mnist", resolve("idc", "mnist"))
    if ":" in source:  # in Python, tf_flowers could be a misspelt recipe
        assert resolve("idc", source) == resolve("idc", "generic")


@pytest.mark.parametrize(
    "line",
    [
        "acc_dd cifar10 --ipc 10 --models early-stage --perturb directions --net.width 32 --optimiser.lr 0.5",
        "--perturb directions --net.width 32 acc_dd --ipc 10 cifar10 --optimiser.lr 0.5 --models early-stage",
        "--ipc=10 --optimiser.lr=0.5 --net.width=32 --models=early-stage acc_dd cifar10",
    ],
)
def test_options_come_in_any_order(line: str) -> None:
    experiment = parse(line)[2]
    preset = resolve("acc_dd", "cifar10", ipc=10)
    optimiser = replace(preset.spec.optimiser, lr=0.5)
    assert experiment.spec == replace(preset.spec, net=ConvNet(depth=3, width=32), optimiser=optimiser)


def test_a_choice_replaces_the_presets_and_keeps_it_where_it_is_the_same() -> None:
    random = parse("acc_dd cifar10 --models random")[2].spec
    assert (random.models, random.perturb) == (RandomInit(), Directions())
    assert parse("acc_dd cifar10 --models early-stage")[2].spec.models == ACC_DD.models
    assert parse("mtt cifar10 --objective trajectory")[2].spec.objective.steps == 50  # the recipe's, not the class's  # type: ignore[attr-defined]
    assert parse("dc cifar10 --models early-stage --models.size 3")[2].spec.models == EarlyStagePool(size=3)


def test_the_flag_of_a_choice_from_outside_takes_no_value() -> None:
    spec = parse(f"--objective {__name__}:Switched --objective.centre acc_dd digits")[2].spec
    assert spec.objective == Switched(centre=True)


def test_a_recipe_sets_no_number_that_the_user_chose() -> None:
    def optimiser(ours: Any) -> Any:
        return resolve("acc_dd", "digits", shape=(8, 8, 1), axes={"optimiser": ours}).spec.optimiser

    assert optimiser(Adam(lr=0.5)) == Adam(lr=0.5)
    assert optimiser(Adam()) == Adam(lr=2e-4), "the default of the class is not a choice of the user"
    assert optimiser(OwnRate()) == OwnRate(), "the recipe does not know what lr means there"
    assert parse("dc digits --optimiser sgd")[2] == resolve("dc", "digits", shape=(8, 8, 1))


def test_classes_are_numbers_or_ranges() -> None:
    for words in ("--classes=0:3", "--classes 0:3", "--classes 0 1 2"):
        assert parse(f"acc_dd digits {words}")[2].spec.classes == (0, 1, 2)


def test_a_factor_must_take_effect() -> None:
    assert resolve("idc", factor=3).spec.parameterisation.factor == 3
    with pytest.raises(RequestError, match="dc stores plain images"):
        resolve("dc", factor=2)


@pytest.mark.parametrize("recipe", ["digits", "mnist", "svhn", "generic"])
def test_digits_and_unknown_images_are_never_mirrored(recipe: str) -> None:
    """Nothing that a method trains or evaluates sees a mirror image, which may have another meaning."""
    mirrored = {(m, p) for m in PRESETS for p in PROTOCOLS if "flip" in str(resolve(m, recipe, protocol=p))}
    assert not mirrored


def test_a_recipe_does_not_overrule_a_choice() -> None:
    experiment = parse("acc_dd digits --net lenet")[2]
    assert type(experiment.spec.net).__name__ == "LeNet"


def test_the_augmentation_inside_a_choice_is_a_choice_too() -> None:
    line = "acc_dd cifar10 --update.augment=none --models.augment siamese --protocol.augment basic"
    _, _, experiment = parse(f"{line} --protocol.augment.crop 2")
    usual = parse("acc_dd cifar10")[2]
    assert experiment.spec == replace(usual.spec, update=replace(usual.spec.update, augment=NoAugment()))
    assert experiment.protocol == replace(usual.protocol, augment=BasicAugment(crop=2))
    with pytest.raises(RequestError, match="did you mean none"):
        parse("acc_dd cifar10 --update.augment nne")
    with pytest.raises(RequestError, match="Unrecognized options: --update.augment"):
        parse("dm cifar10 --update.augment none")


def test_a_choice_may_come_from_outside_the_package() -> None:
    spec = parse(f"acc_dd cifar10 --objective {__name__}:Doubled --objective.weight 3")[2].spec
    assert spec.objective == Doubled(weight=3.0)
    assert choice_name("objective", spec.objective) == f"{__name__}:Doubled"
    assert choice_name("net", spec.net) == "convnet"


@pytest.mark.parametrize("option", ["--factor", "--parameterisation.factor"])
def test_recipes_know_the_factor(option: str) -> None:
    single, packed = (parse(f"acc_dd mnist {option} {factor}")[2] for factor in (1, 2))
    assert (single.spec.parameterisation.factor, packed.spec.parameterisation.factor) == (1, 2)
    assert (single.protocol.cutmix, packed.protocol.cutmix) == (0.5, 0.0)


def test_recipes_know_the_shape() -> None:
    small, large = (parse("acc_dd npz:x.npz", shape=(side, side, 3))[2] for side in (8, 64))
    assert (small.spec.net, large.spec.net) == (ConvNet(depth=1), ConvNet(depth=4))
    assert large.spec.optimiser.lr == pytest.approx(64 * small.spec.optimiser.lr)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "line, message",
    [
        ("acc_ddd digits", "did you mean acc_dd?"),
        ("acc_dd digits --recipe cifar", "did you mean cifar10?"),
        ("acc_dd digits --models erly-stage", "did you mean early-stage?"),
        ("acc_dd digits --objective nowhere:Nothing", "cannot be imported"),
        ("acc_dd digits --objective math:nothing", "cannot be imported"),
        ("acc_dd digits --objective json:JSONDecoder", "@choice that inherits"),
        (f"acc_dd digits --models {__name__}:Doubled", "it is a choice for --objective"),
        (f"acc_dd digits --objective {__name__}:Undecorated", "make it a @choice"),
        (f"acc_dd digits --objective {__name__}:parse", "is not a class: write MODULE:CLASS"),
        ("acc_dd digits --objective ./my_file.py:Mine", "does not name a class: write MODULE:CLASS"),
        (f"acc_dd digits --objective {__name__}:Unfinished", "define class_loss"),
        ("acc_dd digits --ipc many", "whole number"),
        ("dc digits --factor 2", "multi-formation"),
    ],
)
def test_a_wrong_request_is_refused_with_a_hint(line: str, message: str) -> None:
    with pytest.raises(RequestError, match=message.replace("?", r"\?")) as refused:
        parse(line)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "line, message",
    [
        ("acc_dd digits --outer-stepz 3", "--outer-steps"),
        ("acc_dd digits --models.sice 3", "--models.size"),
        ("acc_dd digits extra", "extra"),
        ("acc_dd digits --net.norm btch", "batch"),
        ("acc_dd digits --ipc", "--ipc"),
        ("acc_dd", "METHOD or DATASET is missing: put both first, as in acc_dd digits; python -m"),
        ("--subset 0 1 acc_dd digits --seed 1", "--subset takes all words up to the next option"),
        ("acc_dd digits --ipc", "error: Missing value for argument '--ipc'"),
        ("acc_dd digits --syn-batch --seed 1", "error: Missing value for argument '--syn-batch'"),
        ("", "METHOD"),
    ],
)
def test_a_wrong_option_ends_with_code_2_and_names_the_nearest(line: str, message: str, capsys) -> None:
    assert run_command(lambda argv: parse(" ".join(argv)), line.split()) == 2
    shown = capsys.readouterr().err
    assert message in shown and shown.startswith("error: ") and shown.count("\n") == 1


def test_help_needs_neither_method_nor_data(capsys) -> None:
    assert run_command(lambda argv: arguments.request(argv, Options), ["--help-all"]) == 0
    shown = capsys.readouterr().out
    for word in ("METHOD", "DATASET", "--outer-steps", "--perturb.max", "--optimiser.lr", "image updates per outer"):
        assert word in shown
    assert run_command(lambda argv: arguments.request(argv, Options), ["dsa", "cifar10", "--help-all"]) == 0
    shown = capsys.readouterr().out
    assert "--update.epochs" in shown and "[OPTIONS] METHOD DATASET" in shown


def test_help_shows_only_the_common_options_and_how_to_see_all(capsys) -> None:
    assert run_command(lambda argv: arguments.request(argv, Options), ["--help"]) == 0
    shown = capsys.readouterr().out
    for word in ("METHOD", "DATASET", "--repeats", "--ipc", "--outer-steps", "--models random|", "--help-all"):
        assert word in shown
    assert "--perturb.max" not in shown and "--class-chunk" not in shown and "(default: None)" not in shown
    assert shown.count("\n") < 100


def test_the_data_set_is_read_and_its_shape_used() -> None:
    request = arguments.request(["acc_dd", "digits", "--ipc", "3"], Options)
    assert request.data.shape == (8, 8, 1)
    assert request.experiment == resolve("acc_dd", "digits", ipc=3, shape=(8, 8, 1))


def test_a_method_without_steps_says_what_it_ignores(capsys) -> None:
    line = ["kcenter", "digits", "--outer-steps", "2", "--objective", "gradient", "--optimiser.lr", "1", "--ipc", "2"]
    assert arguments.request(line, Options).experiment.spec.outer_steps == 0
    note = "kcenter takes no steps: it ignores --outer-steps --objective --optimiser.lr\n"
    assert capsys.readouterr().err == note


def test_a_wrong_option_is_refused_before_data_are_read(capsys) -> None:
    assert (
        run_command(lambda argv: arguments.request(argv, Options), ["acc_dd", "npz:/does/not/exist", "--ipcs", "1"])
        == 2
    )
    shown = capsys.readouterr().err
    assert "--ipc" in shown and "exist" not in shown.replace("--ipcs", "")
