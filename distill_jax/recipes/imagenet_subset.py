"""Six subsets of ten classes of ImageNet, 128x128x3, ConvNet-5, as MTT takes them: ``--subset imagenette`` (imagewoof,
imagemeow, imagesquawk, imagefruit, imageyellow) of ``imagenet2012``, or the photographs in a folder.

Published for MTT at ipc 1 / 10 (protocol dsa), ImageNette: 47.7 / 63.0. Its readme: N 20, M 2, T+ 10, image rate 1000,
rate of the rate 1e-6. At ipc 10 its author later named an image rate of 1e5 and batches of 20.
NCFM at ipc 1 / 10, ImageNette: 53.4 / 77.6, with its network that draws the frequencies; its pool is trained for 80
epochs. RDED stores four patches in an image: 33.8 / 63.2.
Other methods take the generic settings.
"""

from distill_jax.recipes import IMAGENET, Overrides, generic, mtt


def recipe(ipc: int, shape: tuple[int, int, int], factor: int) -> Overrides:
    mine = {
        "*": IMAGENET,
        "mtt": {**mtt(20, 2, 10, 1000.0, 1e-6), **FULL},
        "ncfm": {"models.epochs": 80, "init.order": "first"},
        "rded": {"parameterisation.factor": 2},
    }
    return [*generic.recipe(ipc, shape, factor), mine]


FULL = {"models.size": 100, "outer_steps": 5000}
