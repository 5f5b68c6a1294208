"""Six subsets of ten classes of ImageNet, 128x128x3, ConvNet-5, as MTT takes them: ``--subset imagenette`` (imagewoof,
imagemeow, imagesquawk, imagefruit, imageyellow) of ``imagenet2012``, or the photographs in a folder.

Published for MTT at ipc 1 / 10 (protocol dsa), ImageNette: 47.7 / 63.0. Its readme: N 20, M 2, T+ 10, image rate 1000,
rate of the rate 1e-6. At ipc 10 its author later named an image rate of 1e5 and batches of 20.
Other methods take the generic settings.
"""

from distill_jax.recipes import IMAGENET, Overrides, generic, mtt


def recipe(ipc: int, shape: tuple[int, int, int], factor: int) -> Overrides:
    return [*generic.recipe(ipc, shape, factor), {"*": IMAGENET, "mtt": {**mtt(20, 2, 10, 1000.0, 1e-6), **FULL}}]


FULL = {"models.size": 100, "outer_steps": 5000}
