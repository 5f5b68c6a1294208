"""scikit-learn's digits, 8x8x1, 10 classes, ConvNet-2 of width 32: the data of ``make demo`` and of the tests.

Ours, tuned here: factor 1 (at 8 pixels a side, cells of 4 lose the digit) and budgets of a minute or so for every
method. For the IDC family at ipc 1 an image rate of 2e-4 for 500 steps (1e-4 for 1000 steps is no better, 1e-3 ends
below random images), at ipc 10 1e-2 for 1500 (500 steps at 2e-4: 96.7 %, 2e-3: 97.6 %, 1e-2: 98.0 %, 1e-1: 93.3 %).
What each reaches: results/digits.md.
"""

from distill_jax.nets import ConvNet
from distill_jax.recipes import IDC_FAMILY, Overrides, dc_loops, mtt, nearest, without_flip


def recipe(ipc: int, shape: tuple[int, int, int], factor: int) -> Overrides:
    mine = {
        "*": {"net": ConvNet(depth=2, width=32)},
        "@idc": {"protocol.epochs": 300},
        IDC_FAMILY: {
            "parameterisation.factor": 1,
            "optimiser.lr": nearest({1: 2e-4, 10: 1e-2}, ipc),
            "update.images": 256,
            "outer_steps": nearest({1: 10, 10: 30}, ipc),
            "inner_steps": 50,
        },
        # A class has some 130 images: DREAM's 128 clusters would be nearly all of them.
        "dream dream_acc_dd": {"selector.batch": 32},
        "dc dsa": {**dc_loops(ipc), "outer_steps": 200 if ipc < 5 else 20},
        "dm": {"outer_steps": 500, "optimiser.lr": nearest({1: 1.0, 10: 10.0}, ipc)},
        "cafe": {"optimiser.lr": nearest({1: 0.01, 10: 5.0}, ipc), "outer_steps": nearest({1: 10, 10: 20}, ipc)},
        "mtt": {**mtt(20, 2, 5, nearest({1: 10.0, 10: 30.0}, ipc)), "models.size": 10, "outer_steps": 200},
    }
    return [*without_flip(), mine]
