"""Fashion-MNIST, 28x28x1, 10 classes, ConvNet-3 as for MNIST. Published accuracies: published/tables/mnist_family.toml.

l1 matching at base learning rate 1e-4. The reference side stays 32 as in the released code, which gives a factor of
0.766. Clothes may be flipped.
"""

from distill_jax.recipes import DREAMS, IDC_FAMILY, Overrides, dc_loops, idc_rate, normalised


def recipe(ipc: int, shape: tuple[int, int, int], factor: int) -> Overrides:
    rate = 1e-4 * idc_rate(ipc, shape[0])
    overrides = {
        "*": normalised((0.2861,), (0.3530,)),
        IDC_FAMILY: {
            "objective.metric": "l1", "optimiser.lr": rate, "update.images": 500,
        },
        DREAMS: {"update.batch": 128},
        "dc dsa": dc_loops(ipc),
    }  # fmt: skip
    return [overrides]
