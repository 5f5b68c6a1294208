"""Six subsets of ten classes of ImageNet, 128x128x3, ConvNet-5, as in MTT: ``--subset imagenette`` (imagewoof,
imagemeow, imagesquawk, imagefruit, imageyellow) of ``imagenet2012``, or a folder of photographs.

Published for MTT at ipc 1 / 10 (protocol dsa) on ImageNette: 47.7 / 63.0. MTT's readme gives N 20, M 2, T+ 10, image
learning rate 1000, and 1e-6 as the learning rate of the learnable rate. For ipc 10 its author later named an image
learning rate of 1e5 and batches of 20. Published for NCFM at ipc 1 / 10 on ImageNette: 53.4 / 77.6, with the network
that samples frequencies; its pool trains for 80 epochs. RDED stores four patches in an image: 33.8 / 63.2. All other
methods use the generic settings.
"""

from distill_jax.recipes import IMAGENET, Overrides, generic, mtt


def recipe(ipc: int, shape: tuple[int, int, int], factor: int) -> Overrides:
    overrides = {
        "*": IMAGENET,
        "mtt": {**mtt(20, 2, 10, 1000.0, 1e-6), **FULL},
        "ncfm": {"models.epochs": 80, "init.order": "first"},
        "rded": {"parameterisation.factor": 2},
    }
    return [*generic.recipe(ipc, shape, factor), overrides]


FULL = {"models.size": 100, "outer_steps": 5000}
