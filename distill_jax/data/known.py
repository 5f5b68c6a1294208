"""What is known of named data sets before they are read."""

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
"""(H, W, c) and number of classes of named data sets, for what is said before any data is read"""

PHOTOGRAPHS = ("imagenette", "imagenet2012")
"""named data sets whose images vary in size: their shape is that of the side asked for"""

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
"""of named data sets; their classes are counted as equally large"""
