"""Translates an experiment's settings to the names of the published configurations: data, network, images, matching."""

from __future__ import annotations

from collections.abc import Callable

import jax

from distill_jax.augment import NoAugment
from distill_jax.axes.init import KMeansInit, Mix, Noise, RandomReal
from distill_jax.axes.objective import FeatureMatching, GradientMatching, LayerwiseAlignment, TrajectoryMatching
from distill_jax.axes.optimiser import SGD, ClassByClassSGD
from distill_jax.axes.selector import NoReal, RandomBatch, Representative
from distill_jax.nets import ConvNet
from distill_jax.published.training import Settings, alignment, augmentation, evaluation, models, trajectories, update
from distill_jax.recipes import Experiment
from distill_jax.spec import Spec, own_axes
from distill_jax.types import Shape


def settings(experiment: Experiment, shape: Shape, classes: int, zca: bool = False) -> Settings:
    """Return the settings of ``experiment`` under the published names; ``zca`` is true if images are whitened. Settings
    that depend on a choice of the user's own class are left out, because its fields may mean anything."""
    spec, protocol, own = experiment.spec, experiment.protocol, own_axes(experiment.spec)
    space = "whitened" if zca else spec.parameterisation.space
    steps = "until flat" if spec.update.leaves_early else spec.inner_steps
    named: Settings = {
        **{"image_size": shape[0], "image_channels": shape[2], "num_classes": classes},
        **{"mean": None if zca else list(spec.mean), "std": None if zca else list(spec.std)},
        **{"outer_iterations": spec.outer_steps, "inner_steps": steps},
    }
    parts: dict[tuple[str, ...], Callable[[], Settings]] = {
        ("net",): lambda: _net(spec, shape, classes),
        ("optimiser", "init", "parameterisation"): lambda: _images(spec, space),
        ("objective", "augment"): lambda: _matching(spec),
        ("selector",): lambda: _real(spec),
        ("update",): lambda: update(spec),
        ("models", "perturb"): lambda: models(spec),
    }
    if isinstance(spec.objective, TrajectoryMatching):
        parts["objective", "models"] = lambda: {"mtt_zca": zca, **trajectories(spec, classes)}
    if isinstance(spec.objective, LayerwiseAlignment):
        parts["objective", "update"] = lambda: alignment(spec)
    for axes, part in parts.items():
        named |= {} if own & set(axes) else part()
    return named | evaluation(spec, protocol)


def _net(spec: Spec, shape: Shape, classes: int) -> Settings:
    net = spec.net.build(shape, classes)
    params = jax.eval_shape(lambda: net.init(jax.random.key(0))).params
    leaves = jax.tree_util.tree_leaves_with_path(params)
    first = next((params[name] for name in ("conv0", "stem") if name in params), None)
    named = {
        "net": type(spec.net).__name__,
        "net_norm": getattr(spec.net, "norm", "none"),
        "net_depth": getattr(spec.net, "depth", None),
        "net_linear_inputs": params["classifier"]["kernel"].shape[0],
        "net_parameters": sum(leaf.size for _, leaf in leaves),
    }
    if first is not None:  # the published networks have one
        kernel = first["kernel"].shape
        named |= {"net_width": kernel[-1], "net_first_kernel": kernel[0], "net_conv_bias": "bias" in first}
    if isinstance(spec.net, ConvNet):
        named |= {"net_activation": spec.net.activation, "net_first_padding": net.module.first_padding}  # type: ignore
    return named


def _images(spec: Spec, space: str) -> Settings:
    optimiser, init, parameterisation = spec.optimiser, spec.init, spec.parameterisation
    drops = getattr(optimiser, "halve_at", ())
    rates = [[0, optimiser.lr]] + [  # type: ignore[attr-defined]
        [round(share * spec.outer_steps), optimiser.lr / 2 ** (n + 1)]  # type: ignore[attr-defined]
        for n, share in enumerate(drops)
    ]
    mixed = "mix of " if parameterisation.factor > 1 else ""
    if isinstance(init, Noise):
        start = "standard normal in normalised space"
    elif isinstance(init, KMeansInit):
        start = f"{mixed}k-means medoids"
    elif isinstance(init, Mix | RandomReal):
        start = mixed + ("first real" if isinstance(init, Mix) and init.order == "first" else "random real")
    else:
        start = type(init).__name__
    decoded = parameterisation.decoded(spec.ipc)
    return {
        "image_optimizer": "SGD" if isinstance(optimiser, SGD | ClassByClassSGD) else type(optimiser).__name__,
        "image_lr": optimiser.lr,  # type: ignore[attr-defined]
        "image_lr_schedule": rates if drops else "constant",
        "image_momentum": getattr(optimiser, "momentum", 0.0),
        "image_turns": "class by class" if isinstance(optimiser, ClassByClassSGD) else "joint",
        "image_space": space,
        "image_clamp": "[0, 1] at the start of each outer iteration" if space == "pixel" else "none",
        "saved_images": "clamped" if space == "pixel" else "not clamped",
        "init": start,
        "decode": "none" if parameterisation.factor == 1 else getattr(parameterisation, "decode_type", "single"),
        "decode_bound": getattr(parameterisation, "bound", None),
        "decoded_per_class": decoded,
        "syn_shown_max": spec.syn_batch,
        "syn_shown_per_class": min(decoded, spec.syn_batch) if spec.syn_batch else decoded,
    }


def _matching(spec: Spec) -> Settings:
    objective, augment = spec.objective, spec.augment
    tensors = {"match_conv": False, "match_head": False, "match_bias": False}
    kind, metric = type(objective).__name__, ""
    if isinstance(objective, GradientMatching):
        kind, metric = "gradient", objective.metric
        tensors = {"match_conv": True, "match_head": objective.head, "match_bias": objective.bias}
    elif isinstance(objective, FeatureMatching):
        kind, metric = "feature", "mse of class means of the embedding"
    elif isinstance(objective, LayerwiseAlignment):
        kind, metric = "layerwise features", "sum of squared differences of class means"
    elif isinstance(objective, TrajectoryMatching):
        kind, metric = "trajectory", "squared distance over squared distance of start and target"
        augment = objective.augment
    siamese = spec.augment != NoAugment()
    named = {"match_objective": kind, "match_metric": metric, "match_reduction": "sum", "match_aug_siamese": siamese}
    return {**named, **tensors, **augmentation("match", augment)}


def _real(spec: Spec) -> Settings:
    selector = spec.selector
    if not isinstance(selector, Representative):
        usual = isinstance(selector, RandomBatch | NoReal)
        return {"real_batch": selector.batch, "real_selection": "random" if usual else type(selector).__name__}
    starts = {"random": "random rows, with replacement", "plus-plus": "k-means++"}
    return {
        "real_batch": selector.batch,
        "real_selection": "k-means medoids",
        "cluster_count": selector.batch,
        "cluster_interval": selector.every,
        "cluster_init_count": spec.ipc * spec.parameterisation.factor**2,
        "cluster_iterations": selector.iterations,
        "cluster_start": starts[selector.start],
        "cluster_input": "all real images of the class in [0, 1], "
        + ("normalised" if selector.normalise else "not normalised, not augmented"),
        "cluster_images": "nearest to each centre, duplicates kept",
        "cluster_distance": "euclidean",
        "cluster_net": "the current one",
    }
