"""Tests the resolved settings against every published configuration, one test each."""

from __future__ import annotations

import re
from typing import Any

import pytest

from distill_jax import published
from distill_jax.methods import PRESETS
from distill_jax.nets import ConvNet
from distill_jax.recipes import RECIPES, recipe_named, resolve

SHAPES = {"mnist": (28, 28, 1), "fashion_mnist": (28, 28, 1), "tiny": (64, 64, 3)}
SHAPES |= {"imagenet10": (224, 224, 3), "imagenet100": (224, 224, 3)}
CLASSES = {"cifar100": 100, "tiny": 200, "imagenet100": 100}


def steps_of_idc(dataset: str) -> int:
    return 500 if dataset.startswith("imagenet") else 2000


def of_all_cells(x: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the stand-alone test for all cells of the images of ImageNet."""
    cells = x["ipc"] * x["factor"] ** 2
    epochs = {180: 1000, 450: 500}[cells]
    epochs, rate = (epochs, 0.01) if x["dataset"] == "imagenet10" else (epochs * 2 // 3 // 100 * 100, 0.1)
    drops = [[2 * epochs // 3 + 1, 0.2], [5 * epochs // 6 + 1, 0.04]]
    falling = [[1, rate], *([epoch, rate * factor] for epoch, factor in drops)]
    rates = [[epoch, pytest.approx(of)] for epoch, of in falling]
    return {
        "decode": "single", "images_per_class": cells, "epochs": epochs, "passes": epochs, "lr_schedule": rates,
    }  # fmt: skip


DIFFERENT = {
    "the loops of DC, DSA, DM, MTT and CAFE pass once more than their option says, after the last evaluation; here as "
    "often as it says": lambda x, name, ours: (
        name == "outer_iterations" and ours == x["outer_iterations_option"] == x[name] - 1
    ),
    "the paper's Ours5 takes a fifth of IDC's iterations on every data set; the release has 500 everywhere, by "
    "default": lambda x, name, ours: (
        name == "outer_iterations" and x["method"] == "acc_dd" and 5 * ours == steps_of_idc(x["dataset"])
    ),
    "MTT's paper has ConvNet-4 on Tiny-ImageNet; two of its three commands name no depth": lambda x, name, ours: (
        x["method"] == "mtt" and x["dataset"] == "tiny" and name.startswith("net_")
    ),
    "CAFE's loops have no bound, and can run for ever": lambda x, name, ours: name == "cafe_bound",
    "sets are scored as the stand-alone test does, which gives the published figures: all cells decoded, epochs by "
    "their number": lambda x, name, ours: (
        x["decode"] == "bound" and ours == of_all_cells(x).get(re.sub("eval_(script_)?", "", name))
    ),
    "an expert's epochs that cannot be drawn are not trained, which changes nothing": lambda x, name, ours: (
        name == "mtt_expert_total_epochs"
    ),
    "no epoch of a pool is chosen by its test accuracy": lambda x, name, ours: name == "pool_checkpoint",
    "images begin as random ones of their class: the released codes take the first of each, which on held-out MNIST "
    "ends 2 to 8 points lower (results/ablations.md)": lambda x, name, ours: (
        name == "init" and ours == x["init"].replace("first real", "random real")
    ),
    "saved pixels are clamped to [0, 1], which is what every format and viewer takes": lambda x, name, ours: (
        name == "saved_images"
    ),
    "the network is drawn anew after the last image step, so training it then changes nothing": lambda x, name, ours: (
        name == "update_after_last_step" and x["method"] in ("dc", "dsa")
    ),
}
"""reason -> the settings that it explains, by the published configuration, the name and our value"""

ELSEWHERE = {
    "what the configuration is": "method dataset ipc factor variant command command_from",
    "how it was obtained": "published runs_as_released traced readme_table_variant early_optimizer",
    "the paper's values, which stand beside the release's": "paper_outer_iterations_ours5 "
    "paper_outer_iterations_ours10 paper_outer_iterations_ours20 paper_perturb_directions",
    "ranges of the augmentation: test_augment.py": "aug_align_corners aug_brightness aug_contrast aug_crop_pad "
    "aug_cutout aug_flip_prob aug_rotate_degrees aug_saturation aug_scale",
    "layers and their first weights: test_nets.py, test_initial_weights.py": "net_bias_init net_conv_init "
    "net_linear_init net_norm_eps net_pooling",
    "whitening: test_whiten.py": "mtt_zca_covariance_divisor mtt_zca_eps mtt_zca_eps_added_to mtt_zca_fit_on "
    "mtt_zca_output_normalised",
    "what is perturbed: test_models.py": "perturb_ignored",
    "the images have no weight decay anywhere": "image_weight_decay",
    "an entry of a table that image_lr follows from; options that no code reads": "image_lr_base mtt_lr_init_option "
    "outer_iterations_option",
    "what else the members of a pool may differ in, at the user's choice": "pool_differences",
    "k-means' own numbers: test_kmeans.py": "cluster_subsample cluster_tolerance",
    "the order of the student's batches, which is random": "mtt_student_batches",
    "options of a run, not of a method": "classes_per_process eval_repeats eval_script_repeats eval_experiments "
    "eval_nets",
    "the test set is read once, after the last epoch": "eval_tested_after eval_reported eval_interval",
}
"""reason -> keys of the published configurations without a corresponding field of a spec or protocol"""

RAN = {key: of for key, of in published.configurations().items() if "error" not in of}


def compared(key: tuple[str, str, int, int]) -> list[published.Comparison]:
    method, dataset, ipc, factor = key
    shape, classes = SHAPES.get(dataset, (32, 32, 3)), CLASSES.get(dataset, 10)
    packed = method in ("idc", "acc_dd", "dream")
    experiment = resolve(method, dataset, ipc=ipc, shape=shape, factor=factor if packed else None)
    return published.compared(method, dataset, experiment, shape, classes, RAN[key].get("mtt_zca", False))


def reasons(key: tuple[str, str, int, int], one: published.Comparison) -> list[str]:
    if one.equal:
        return []
    return [why for why, explains in DIFFERENT.items() if explains(RAN[key], one.name, one.ours)] or ["nothing"]


def test_all_configurations_are_present() -> None:
    assert len(published.configurations()) == 254
    assert len(RAN) == 245, "nine configurations of CAFE end in an error"
    assert len(DIFFERENT) <= 10


@pytest.mark.parametrize("key", RAN, ids=lambda key: "-".join(map(str, key)))
def test_settings_are_the_published_ones(key: tuple[str, str, int, int]) -> None:
    rows = compared(key)
    assert len(rows) > 60
    wrong = {one.name: (one.ours, one.released) for one in rows if reasons(key, one) == ["nothing"]}
    assert not wrong


def test_every_reason_explains_a_difference() -> None:
    """Every listed reason explains at least one difference."""
    used = {why for key in RAN for one in compared(key) for why in reasons(key, one)}
    assert used == set(DIFFERENT)


def test_all_keys_are_compared() -> None:
    seen = {one.name for key in RAN for one in compared(key)}
    elsewhere = {name for names in ELSEWHERE.values() for name in names.split()}
    assert {name for of in RAN.values() for name in of} - seen == elsewhere


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_setting_of_a_recipe_has_a_field(recipe: str) -> None:
    """Every method that a recipe names has all fields that the recipe sets."""
    shape = SHAPES.get(recipe, (32, 32, 3))
    for ipc, factor in ((1, 1), (50, 3)):
        for whom, values in ((w, v) for part in recipe_named(recipe)(ipc, shape, factor) for w, v in part.items()):
            for method in set(whom.split()) & set(PRESETS):
                node = resolve(method, recipe, ipc=ipc, shape=shape).spec
                for path in values:
                    at: object = node
                    for name in path.split("."):
                        assert hasattr(at, name), f"{method} has no {path}"
                        at = getattr(at, name)


@pytest.mark.parametrize(("method", "ipc"), [("dc", 20), ("dsa", 30), ("dc", 40)])
def test_loops_between_the_tables_entries(method: str, ipc: int) -> None:
    spec = resolve(method, "cifar10", ipc=ipc).spec
    loops = {20: (20, 25), 30: (30, 20), 40: (40, 15)}
    assert (spec.inner_steps, spec.update.epochs) == loops[ipc]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("dataset", "ipc", "rate"), [("cifar10", 50, 1.0), ("cifar10", 100, 10.0), ("cifar100", 100, 1.0)]
)
def test_dm_steps_larger_with_many_images(dataset: str, ipc: int, rate: float) -> None:
    assert resolve("dm", dataset, ipc=ipc).spec.optimiser.lr == rate  # type: ignore[attr-defined]


@pytest.mark.parametrize(("side", "depth"), [(8, 1), (16, 2), (32, 3), (64, 4), (96, 4), (128, 5), (256, 6), (512, 6)])
def test_a_convnet_leaves_four_pixels_of_a_side(side: int, depth: int) -> None:
    assert resolve("dm", shape=(side, side, 3)).spec.net == ConvNet(depth)


@pytest.mark.parametrize(("dataset", "classes"), [("cifar10", 10), ("cifar100", 100)])
@pytest.mark.parametrize("ipc", [1, 10, 15, 50])
def test_rat_bptt_scores_every_size_after_as_many_steps(dataset: str, classes: int, ipc: int) -> None:
    protocol = resolve("rat_bptt", dataset, ipc=ipc).protocol
    batches = -(-classes * ipc // protocol.batch)
    assert protocol.name == "rat" and abs(protocol.epochs * batches - 1000) <= batches / 2


def test_a_subset_of_imagenet_for_trajectories() -> None:
    spec = resolve("mtt", "imagenet_subset", ipc=1, shape=(128, 128, 3)).spec
    assert spec.net.depth == 5 and spec.models.start == 10 and spec.models.size == 100  # type: ignore[attr-defined]
    assert (spec.objective.steps, spec.models.ahead, spec.optimiser.lr) == (20, 2, 1000.0)  # type: ignore[attr-defined]
    assert spec.objective.rate_lr == 1e-6  # type: ignore[attr-defined]
