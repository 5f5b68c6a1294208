"""The presets: a method is one choice on each axis, so methods differ only in the choices below.

Numbers that depend on the data set (learning rates, networks, budgets) are in ``recipes/``.
"""

from dataclasses import replace

from distill_jax.augment import NoAugment, Siamese
from distill_jax.axes.init import (
    AnchorMosaics,
    CorrectlyClassified,
    Herding,
    KCenter,
    KMeansInit,
    Mix,
    Noise,
    RandomReal,
    RealPatches,
)
from distill_jax.axes.labels import LearnedLabels, SoftLabels
from distill_jax.axes.models import EarlyStagePool, ExpertTrajectories, InterpolatedPool, RandomInit
from distill_jax.axes.objective import (
    CalibratedCharacteristic,
    FeatureMatching,
    GradientMatching,
    LayerwiseAlignment,
    PairedFeatures,
    TrajectoryMatching,
    TruncatedBackprop,
)
from distill_jax.axes.optimiser import SGD, ClassByClassAdam, ClassByClassSGD, ClippedAdam, ResidualAdam
from distill_jax.axes.parameterisation import MultiFormation, Pixels
from distill_jax.axes.perturb import Directions, NoPerturbation
from distill_jax.axes.selector import Anchors, NoReal, RandomBatch, Representative
from distill_jax.axes.update import DynamicTraining, Frozen, TrainOnReal, TrainOnSynthetic
from distill_jax.evaluation import CAFE_PROTOCOL, DATM_PROTOCOL, DC_BENCH, DSA_PROTOCOL, RAT_PROTOCOL
from distill_jax.spec import Spec
from distill_jax.train import PLAIN_SGD

DSA_STRATEGY = "color_crop_cutout_flip_scale_rotate"

# Dataset Condensation (Zhao et al. 2021): layerwise cosine of gradients, from noise; models train on synthetic images.
DC = Spec(
    models=RandomInit(), perturb=NoPerturbation(), selector=RandomBatch(256, cycle=False),
    parameterisation=Pixels("normalised"), augment=NoAugment(), objective=GradientMatching("cos", head=True),
    optimiser=SGD(0.1), update=TrainOnSynthetic(), init=Noise(), outer_steps=1000, inner_steps=1, syn_batch=0,
)  # fmt: skip

# Differentiable Siamese Augmentation (Zhao & Bilen 2021): DC with augmentation.
DSA = replace(
    DC, augment=Siamese(DSA_STRATEGY, "one"), update=TrainOnSynthetic(augment=Siamese(DSA_STRATEGY, "one")),
    init=RandomReal(),
)  # fmt: skip

# Distribution Matching (Zhao & Bilen 2023): mean features in new random networks, which are never trained.
DM = replace(DSA, objective=FeatureMatching(), optimiser=SGD(1.0), update=Frozen(), outer_steps=20_000, inner_steps=1)

# Aligning Features (CAFE, Wang et al. 2022): layerwise features; accuracy on real images decides when loops end.
CAFE = replace(
    DC, objective=LayerwiseAlignment(), optimiser=SGD(0.1, halve_at=(0.6, 0.8, 0.9)), update=DynamicTraining(),
    outer_steps=2000, inner_steps=50,
)  # fmt: skip

# CAFE with DSA's augmentation.
CAFE_DSA = replace(CAFE, augment=DSA.augment, update=DynamicTraining(augment=DSA.augment))

# Matching Training Trajectories (MTT, Cazenavette et al. 2022): a student should end where an expert ended.
MTT = replace(
    DC, models=ExpertTrajectories(), selector=NoReal(), objective=TrajectoryMatching(20), optimiser=SGD(1000.0),
    update=Frozen(), init=RandomReal(), outer_steps=5000, inner_steps=1,
)  # fmt: skip

# Difficulty-Aligned Trajectory Matching (DATM, Guo et al. 2024): MTT from ever later epochs, with learned soft labels.
DATM = replace(
    MTT, models=ExpertTrajectories(grows_from=10, epochs=100), objective=TrajectoryMatching(80, threshold=1.0),
    labels=LearnedLabels(lr=2.0, momentum=0.9, start="teachers"), init=CorrectlyClassified(), outer_steps=10_000,
)  # fmt: skip

# RaT-BPTT (Feng et al. 2024): backpropagation through the last of a random number of steps of training on the images.
RAT_BPTT = replace(
    DC, selector=RandomBatch(500), objective=TruncatedBackprop(), optimiser=ClippedAdam(), update=Frozen(),
    init=Noise(unit=True), outer_steps=20_000,
)  # fmt: skip

# IDC (Kim et al. 2022): several images stored in one (multi-formation), and a model that trains on real images.
IDC = Spec(
    models=RandomInit(), perturb=NoPerturbation(), selector=RandomBatch(64), parameterisation=MultiFormation(2),
    augment=Siamese("color_crop_cutout"), objective=GradientMatching("mse"), optimiser=ClassByClassSGD(),
    update=TrainOnReal(), init=Mix(), outer_steps=2000, inner_steps=100,
)  # fmt: skip

# Acc-DD (Zhang et al. 2023): IDC on a few perturbed early-stage models with a fifth of the iterations ("Ours5").
ACC_DD = replace(IDC, models=EarlyStagePool(), perturb=Directions(), outer_steps=400)

# DREAM (Liu et al. 2023): IDC that matches and starts from representative real images, the medoids of k-means.
DREAM = replace(IDC, selector=Representative(128), init=KMeansInit())

# DREAM and Acc-DD combined; no paper reports this combination.
DREAM_ACC_DD = replace(ACC_DD, selector=DREAM.selector, init=DREAM.init)

# NCFM (Wang et al. 2025): characteristic functions of features, in networks interpolated between initial and trained
# ones. Two parts are omitted: the rule that halves the learning rate when the loss stagnates, because a schedule does
# not see the loss; and the network that samples frequencies (off in the released configurations), because what an
# objective learns neither sees the network nor ascends.
NCFM = replace(
    IDC, models=InterpolatedPool(trained=True), selector=RandomBatch(1024, cycle=False),
    objective=CalibratedCharacteristic(), optimiser=ClassByClassAdam(), update=Frozen(), outer_steps=20_000,
    inner_steps=1, syn_batch=0,
)  # fmt: skip

# CIM (ECCV 2026): tiles of the images with the lowest loss, each matched to the features of the whole image it shows,
# with labels from the network that selected them. The paper relabels each view and learns by a loss on logits; here
# labels are as in RDED below. There is only one outer iteration, so pixels are clamped only at the end.
CIM = replace(
    IDC, models=EarlyStagePool(1, 100, batch=128), selector=Anchors(), labels=SoftLabels(), init=AnchorMosaics(),
    augment=Siamese("crop_cutout_flip"), objective=PairedFeatures(), optimiser=ResidualAdam(), update=Frozen(),
    outer_steps=1, inner_steps=200, syn_batch=0,
)  # fmt: skip

METHODS = {
    "dc": DC,
    "dsa": DSA,
    "dm": DM,
    "cafe": CAFE,
    "cafe_dsa": CAFE_DSA,
    "mtt": MTT,
    "datm": DATM,
    "rat_bptt": RAT_BPTT,
    "idc": IDC,
    "acc_dd": ACC_DD,
    "dream": DREAM,
    "dream_acc_dd": DREAM_ACC_DD,
    "ncfm": NCFM,
    "cim": CIM,
}

# Baseline for every method: the same number of real images, selected at random and unchanged.
RANDOM = Spec(
    models=RandomInit(), perturb=NoPerturbation(), selector=RandomBatch(1, cycle=False), parameterisation=Pixels(),
    augment=NoAugment(), objective=FeatureMatching(), update=Frozen(), init=RandomReal(), outer_steps=0, inner_steps=1,
)  # fmt: skip

# Coresets in the embedding of a network that was trained for twenty epochs.
HERDING = replace(RANDOM, models=EarlyStagePool(size=1, epochs=20, cutmix=0.0, augment=NoAugment()), init=Herding())
KCENTER = replace(HERDING, init=KCenter())
KMEANS = replace(HERDING, init=KMeansInit(normalise=True))

# Random images with labels from a network that was stopped early (Qin et al. 2024): the fewer images, the earlier.
RANDOM_SOFT = replace(
    RANDOM, labels=SoftLabels(),
    models=EarlyStagePool(1, 20, PLAIN_SGD, batch=256, cutmix=0.0, augment=DSA.augment, schedule="constant"),
)  # fmt: skip

# RDED (Sun et al. 2024): the patches with the lowest loss, with labels from the network that selected them. The paper
# draws new views of an image in each epoch and labels each view; here an image, or a cell if an image stores several,
# has one label.
RDED = replace(
    RANDOM_SOFT, models=EarlyStagePool(1, 100, batch=128), parameterisation=MultiFormation(1), init=RealPatches()
)  # fmt: skip

BASELINES = {
    "random": RANDOM, "herding": HERDING, "kcenter": KCENTER, "kmeans": KMEANS, "random_soft": RANDOM_SOFT,
    "rded": RDED, "full": RANDOM,
}  # fmt: skip
"""methods that take no step; ``full`` keeps no images: the runner trains on all real images for as many steps"""

PRESETS = METHODS | BASELINES

PROTOCOL_OF = {
    "dc": DC_BENCH, "cafe": CAFE_PROTOCOL, "dsa": DSA_PROTOCOL, "dm": DSA_PROTOCOL, "cafe_dsa": DSA_PROTOCOL,
    "mtt": DSA_PROTOCOL, "datm": DATM_PROTOCOL, "rat_bptt": RAT_PROTOCOL, "random_soft": DSA_PROTOCOL,
}  # fmt: skip
"""evaluation protocol of each paper; IDC's protocol for all other methods"""
