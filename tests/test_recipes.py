"""Tests the numbers of recipes that are in no published configuration: they are from papers and readmes."""

from __future__ import annotations

from typing import Any

import pytest

from distill_jax.axes.optimiser import ClassByClassAdam, ClassByClassSGD
from distill_jax.recipes import RECIPES, imagenet10, resolve

IDC_FAMILY = ("idc", "acc_dd", "dream", "dream_acc_dd")
SIDES = {"mnist": 28, "fashion_mnist": 28, "tiny": 64, "imagenet10": 224, "imagenet100": 224, "imagenet_subset": 128}


def spec(method: str, recipe: str, ipc: int = 10) -> Any:
    side = SIDES.get(recipe, 32)
    return resolve(method, recipe, ipc=ipc, shape=(side, side, 1 if side == 28 else 3)).spec


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name != "digits"])
def test_acc_dd_takes_a_fifth_of_the_iterations_of_idc(recipe: str) -> None:
    """This is the paper's Ours5. The settings of digits are our own."""
    steps = {method: spec(method, recipe).outer_steps for method in IDC_FAMILY}
    assert steps["idc"] == steps["dream"] == (500 if recipe in ("imagenet10", "imagenet100") else 2000)
    assert 5 * steps["acc_dd"] == 5 * steps["dream_acc_dd"] == steps["idc"]


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name != "digits"])
@pytest.mark.parametrize("ipc", [1, 50])
def test_dream_with_acc_dd_has_the_rate_of_acc_dd_on_the_clusters_of_dream(recipe: str, ipc: int) -> None:
    """No release has this combination, and DREAM's own rate on Tiny-ImageNet is DREAM's alone."""
    both, acc_dd, dream = (spec(method, recipe, ipc) for method in ("dream_acc_dd", "acc_dd", "dream"))
    assert (both.optimiser, both.models, both.perturb) == (acc_dd.optimiser, acc_dd.models, acc_dd.perturb)
    assert (both.selector, both.init, both.update) == (dream.selector, dream.init, dream.update)


@pytest.mark.parametrize(
    ("recipe", "ipc", "rate", "images"),
    [
        ("generic", 10, 5e-3, 500),
        ("generic", 1, 5e-4, 500),
        ("tiny", 10, 5e-3 * 4, 1000),  # four times the area of 32x32
        ("tiny", 50, 5e-3 * 20, 1000),
    ],
)
def test_idc_steps_by_images_and_area(recipe: str, ipc: int, rate: float, images: int) -> None:
    found = spec("idc", recipe, ipc)
    assert found.optimiser.lr == pytest.approx(rate) and found.update.images == images


def test_idc_of_the_users_own_data_is_that_of_cifar10_with_fewer_images_in_an_update() -> None:
    for method, factor in (("idc", 1), ("dream", 1), ("acc_dd", 2), ("dream_acc_dd", 2)):
        assert spec(method, "generic").optimiser.lr == pytest.approx(factor * 5e-3)
        assert spec(method, "generic").optimiser == spec(method, "cifar10").optimiser
        assert (spec(method, "generic").update.images, spec(method, "cifar10").update.images) == (500, 2000)
    large = resolve("acc_dd", "generic", ipc=5, shape=(64, 64, 3)).spec
    assert isinstance(large.optimiser, ClassByClassSGD)
    assert large.optimiser.lr == pytest.approx(2e-2)  # half the images, four times the area


def test_trajectories_on_the_users_own_data_are_few_and_short() -> None:
    assert (spec("mtt", "generic").models.size, spec("mtt", "generic").outer_steps) == (10, 2000)
    subset = spec("mtt", "imagenet_subset")
    assert (subset.models.size, subset.outer_steps) == (100, 5000)


@pytest.mark.parametrize(
    ("recipe", "epochs", "rate"),
    [
        ("cifar10", {1: 20, 10: 44, 50: 128, 100: 164}, 5e-4),
        ("cifar100", {1: 13, 10: 36, 50: 125}, 0.01),
        ("tiny", {1: 11, 10: 50, 50: 90, 100: 102}, None),
    ],
)
def test_random_images_are_labelled_by_a_network_that_stops_early(
    recipe: str, epochs: dict[int, int], rate: float | None
) -> None:
    models = {ipc: spec("random_soft", recipe, ipc).models for ipc in epochs}
    assert {ipc: of.epochs for ipc, of in models.items()} == epochs
    assert rate is None or all(of.optimiser.lr == rate for of in models.values())


@pytest.mark.parametrize(
    ("ipc", "growth", "numbers"),
    [
        (1, (4, 4, 1), (80, 0, 100, 5, 0)),
        (10, (10, 20, 1000), (80, 0, 100, 2, 0)),
        (50, (20, 40, 2000), (80, 0, 1000, 2, 0)),
        (500, (60, 60, 1), (40, 40, 50, 10, 1000)),
        (1000, (60, 60, 1), (100, 40, 50, 10, 1000)),
    ],
)
def test_datm_grows_as_published(ipc: int, growth: tuple[int, ...], numbers: tuple[float, ...]) -> None:
    """T, T+ and the iterations between them; N, T-, the rates of images and labels, and the images in a step."""
    datm = spec("datm", "cifar10", ipc)
    experts, student = datm.models, datm.objective
    assert (experts.grows_from, experts.start, experts.grows_over) == growth
    assert (student.steps, experts.first, datm.optimiser.lr, datm.labels.lr, student.batch) == numbers
    assert experts.ahead == 2


def test_ncfm_steps_by_sgd_on_cifar100_at_ten_images_only() -> None:
    assert spec("ncfm", "cifar100", 10).optimiser == ClassByClassSGD(0.01, 0.5)
    for recipe, ipc in (("cifar100", 1), ("cifar100", 11), ("cifar100", 50), ("cifar10", 10)):
        assert isinstance(spec("ncfm", recipe, ipc).optimiser, ClassByClassAdam)
    subset = spec("ncfm", "imagenet_subset")
    assert (subset.models.epochs, subset.init.order) == (80, "first")


def test_rat_bptt_sees_as_many_real_images_in_a_step_on_both_cifars() -> None:
    ten, hundred = spec("rat_bptt", "cifar10").selector.batch, spec("rat_bptt", "cifar100").selector.batch
    assert 10 * ten == 100 * hundred == 5000


@pytest.mark.parametrize("recipe", ["imagenet10", "imagenet100", "imagenet_subset"])
def test_photographs_are_stored_in_parts(recipe: str) -> None:
    """RDED stores 2 x 2 patches in an image, and IDC's family 3 x 3 on the recipes of its own papers."""
    assert spec("rded", recipe).parameterisation.factor == 2 and spec("rded", "cifar10").parameterisation.factor == 1
    for method in IDC_FAMILY:
        assert spec(method, recipe).parameterisation.factor == (2 if recipe == "imagenet_subset" else 3)


def test_more_images_of_imagenet_are_shown_for_fewer_epochs() -> None:
    decoded = (1, 2, 10, 11, 50, 51, 200, 201, 500, 501, 5000)
    assert [imagenet10.epochs(n) for n in decoded] == [3000, 2000, 2000, 1500, 1500, 1000, 1000, 500, 500, 300, 300]
