"""Facts about named data sets that are needed before any data is read."""

SHAPES: dict[str, tuple[tuple[int, int, int], int]] = {
    "digits": ((8, 8, 1), 10),
    "mnist": ((28, 28, 1), 10),
    "fashion_mnist": ((28, 28, 1), 10),
    "svhn_cropped": ((32, 32, 3), 10),
    "cifar10": ((32, 32, 3), 10),
    "cifar100": ((32, 32, 3), 100),
    "imagenette": ((224, 224, 3), 10),
    "imagenet2012": ((224, 224, 3), 1000),
}
"""{data set: ((H, W, c), number of classes)}"""

PHOTOGRAPHS = ("imagenette", "imagenet2012")
"""named data sets whose images vary in size; the option ``side`` sets H and W"""

TRAINING_IMAGES = {
    "digits": 1347,
    "mnist": 60_000,
    "fashion_mnist": 60_000,
    "svhn_cropped": 73_257,
    "cifar10": 50_000,
    "cifar100": 50_000,
    "imagenette": 9_469,
    "imagenet2012": 1_281_167,
}
"""{data set: number of training images}; classes are assumed to be of equal size"""
