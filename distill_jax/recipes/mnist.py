"""MNIST, 28x28x1, 10 classes, ConvNet-3 (the first convolution pads to 32). Published accuracies:
published/tables/mnist_family.toml.

l1 matching at base learning rate 1e-4 with reference side 28, no flip. With factor > 1: no cutmix in the model update
and the evaluation, and no cutout. DC is scored on augmented images for this data set only.
"""

from dataclasses import replace

from distill_jax.augment import Siamese
from distill_jax.augment_photos import BasicAugment
from distill_jax.evaluation import DC_BENCH
from distill_jax.recipes import DREAMS, IDC_FAMILY, Overrides, dc_loops, idc_rate, normalised, without_flip


def recipe(ipc: int, shape: tuple[int, int, int], factor: int) -> Overrides:
    packed = {
        "@idc": {"protocol.cutmix": 0.0},
        IDC_FAMILY: {"augment": Siamese("color_crop"), "update.cutmix": 0.0},
    }
    overrides = {
        "*": normalised((0.1307,), (0.3081,)),
        "@dc-bench": {"protocol": replace(DC_BENCH, epochs=1000, augment=BasicAugment())},
        IDC_FAMILY: {
            "objective.metric": "l1",
            "optimiser.lr": 1e-4 * idc_rate(ipc, shape[0], 28),
            "update.images": 500,
        },
        DREAMS: {"update.batch": 128},
        "dc dsa": dc_loops(ipc),
    }
    return [*without_flip(), overrides, *([packed] if factor > 1 else [])]
