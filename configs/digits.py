"""scikit-learn's digits, 8x8x1, 10 classes, ConvNet-2 of width 32: the data of ``make demo`` and of the tests.

Ours, tuned here: factor 1 (at 8 pixels a side, cells of 4 lose the digit) and, at ipc 1, an image rate of 2e-4
for 500 steps: 92.8 % in 25 s (1e-4 for 1000 steps: 92.5 %; 1e-3 and more ends below random images).
"""

from configs.recipe import IDC_FAMILY, Overrides, dc_loops, merged, mtt, without_flip
from distill_jax.nets import ConvNet


def recipe(ipc: int, shape: tuple[int, int, int], factor: int) -> Overrides:
    mine = {
        "*": {"net": ConvNet(depth=2, width=32), "protocol.epochs": 300},
        IDC_FAMILY: {
            "parameterisation.factor": 1,
            "hyper.syn_lr": 2e-4,
            "update.images": 256,
            "outer_steps": 10,
            "inner_steps": 50,
        },
        # A class has some 130 images: DREAM's 128 clusters would be nearly all of them.
        "dream dream_acc_dd": {"selector.batch": 32},
        "dc dsa": {**dc_loops(ipc), "outer_steps": 200 if ipc < 5 else 20},
        "dm": {"outer_steps": 1000},
        "cafe": {"hyper.syn_lr": 0.01, "outer_steps": 10},
        "mtt": {**mtt(20, 2, 5, 10.0), "models.size": 10, "outer_steps": 300},
    }
    return merged(without_flip(), mine)
