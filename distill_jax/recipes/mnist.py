"""MNIST, 28x28x1, 10 classes, ConvNet-3 (the first convolution pads to 32). Published: IDC 94.2 / 98.4 at ipc 1 / 10.

l1 matching at base rate 1e-4 with reference side 28; no flip; with factor > 1 no cutmix anywhere and no cutout.
"""

from distill_jax.augment import Siamese
from distill_jax.recipes import IDC_FAMILY, Overrides, dc_loops, idc_rate, merged, without_flip


def recipe(ipc: int, shape: tuple[int, int, int], factor: int) -> Overrides:
    packed = {
        "*": {"protocol.cutmix": 0.0},
        IDC_FAMILY: {"augment": Siamese("color_crop"), "update.cutmix": 0.0},
    }
    mine = {
        IDC_FAMILY: {
            "objective.metric": "l1",
            "optimiser.lr": 1e-4 * idc_rate(ipc, shape[0], 28),
            "update.images": 500,
        },
        "dc dsa": dc_loops(ipc),
    }
    return merged(without_flip(), mine, packed if factor > 1 else {})
