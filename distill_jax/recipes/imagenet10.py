"""Ten classes of ImageNet, 224x224x3, ResNetAP-10. Published accuracies: published/tables/imagenet10.toml.

Factor 3, l1 matching at base learning rate 3e-3 with reference side 224, 500 outer iterations for IDC and a fifth of
that for Acc-DD, cutmix in every step. IDC trains each new network for 10 epochs before matching; Acc-DD's pool trains
for 10 epochs. Matching uses at most 128 decoded images of a class, evaluation uses all. Evaluation epochs decrease as
the number of images grows, and photographs are cropped, mirrored, jittered and lit as usual on ImageNet.
"""

from distill_jax.augment_photos import PhotoAugment
from distill_jax.nets import ResNetAP
from distill_jax.recipes import DREAMS, IDC_FAMILY, IMAGENET, Overrides, dc_loops, idc_rate


def recipe(ipc: int, shape: tuple[int, int, int], factor: int) -> Overrides:
    decode = {"parameterisation.decode_type": "bound"} if ipc >= 20 and factor == 3 else {}
    matching = {"objective.metric": "l1", "optimiser.lr": 3e-3 * idc_rate(ipc, shape[0], 224)}
    updating = {"update.images": 500, "update.cutmix": 1.0}
    overrides = {
        "*": {"net": ResNetAP(10), **IMAGENET},
        "@idc": {
            "protocol.epochs": epochs(ipc * factor**2), "protocol.cutmix": 1.0, "protocol.augment": PhotoAugment(),
        },
        IDC_FAMILY: {"parameterisation.factor": 3, "outer_steps": 500, **matching, **updating, **decode},
        "acc_dd dream_acc_dd": {"outer_steps": 100, "models.epochs": 10, "models.cutmix": 1.0},
        "idc": {"update.early": 10},
        DREAMS: {"update.batch": 128},
        "dc dsa": dc_loops(ipc),
        "rded": {"parameterisation.factor": 2},
    }  # fmt: skip
    return [overrides]


def epochs(decoded: int) -> int:
    """Return the number of evaluation epochs for ``decoded`` images per class."""
    for most, number in ((1, 3000), (10, 2000), (50, 1500), (200, 1000), (500, 500)):
        if decoded <= most:
            return number
    return 300
