"""SVHN (cropped), 32x32x3, 10 classes, ConvNet-3. Published accuracies: published/tables/mnist_family.toml.

mse matching at base learning rate 5e-3, no flip. At factor 1 and ipc 1, IDC's evaluation uses cutout instead of cutmix.
"""

from distill_jax.augment import Siamese
from distill_jax.recipes import DREAMS, IDC_FAMILY, Overrides, dc_loops, idc_rate, normalised, without_flip


def recipe(ipc: int, shape: tuple[int, int, int], factor: int) -> Overrides:
    overrides = {
        "*": normalised((0.4377, 0.4438, 0.4728), (0.198, 0.201, 0.197)),
        IDC_FAMILY: {
            "optimiser.lr": 5e-3 * idc_rate(ipc, shape[0]), "update.images": 500,
        },
        DREAMS: {"update.batch": 128},
        "dc dsa": dc_loops(ipc),
    }  # fmt: skip
    single = {"@idc": {"protocol.cutmix": 0.0, "protocol.augment": Siamese("color_crop_cutout_scale_rotate")}}
    return [*without_flip(), overrides, *([single] if factor == 1 and ipc == 1 else [])]
