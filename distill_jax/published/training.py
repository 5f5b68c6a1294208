"""Translates how an experiment trains networks to the names of the published configurations."""

from __future__ import annotations

from typing import Any

from distill_jax.augment import Siamese
from distill_jax.augment_photos import BasicAugment, PhotoAugment
from distill_jax.axes.models import EarlyStagePool, ExpertTrajectories, RandomInit
from distill_jax.axes.objective import LayerwiseAlignment, TrajectoryMatching
from distill_jax.axes.perturb import Directions
from distill_jax.axes.update import DynamicTraining, Frozen, TrainOnReal, TrainOnSynthetic
from distill_jax.contracts import Augmentation
from distill_jax.evaluation import LEARNED_RATE, Protocol
from distill_jax.schedules import SCHEDULES
from distill_jax.spec import Spec
from distill_jax.train import NetworkSGD

Settings = dict[str, Any]

LEARNED = "the learned rate"
PHOTOS = [
    "RandomResizedCrop(224, scale=(0.5, 1.0))", "RandomHorizontalFlip(p=0.5)",
    "ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, random order)", "Lighting(alphastd=0.1)",
]  # fmt: skip
BASIC = ["crop 4 pixels, filled with the channel's mean", "scale 1 +- 0.2", "rotate +- 45 degrees"]


def update(spec: Spec) -> Settings:
    rule = spec.update
    if isinstance(rule, TrainOnReal):
        steps = -(-rule.images // rule.batch)
        images = {"update_images": rule.images, "update_steps": steps, "update_images_seen": steps * rule.batch}
        source, kind, cutmix = "real", images | {"update_cutmix_beta": 1.0}, rule.cutmix
        if rule.early:
            kind |= {"early_epochs": rule.early, "early_batch": rule.batch, "early_cutmix_prob": cutmix}
            kind |= {"early_aug": _members(rule.augment), "early_lr": rule.optimiser.lr}
        else:
            kind |= {"early_epochs": 0}
    elif isinstance(rule, TrainOnSynthetic):
        source, kind, cutmix = "synthetic", {"update_epochs": rule.epochs}, 0.0
    elif isinstance(rule, DynamicTraining):
        source, kind, cutmix = "synthetic", {"update_epochs": "until moved"}, 0.0
    else:
        return {"update_source": "none" if isinstance(rule, Frozen) else type(rule).__name__}
    return {
        "update_source": source,
        "update_batch": rule.batch,
        "update_cutmix_prob": cutmix,
        "update_optimizer_reset": "each outer iteration",
        "update_after_last_step": not isinstance(rule, DynamicTraining),
        **kind,
        **_sgd("update", rule.optimiser),
        **augmentation("update", rule.augment),
    }


def models(spec: Spec) -> Settings:
    pool, perturb = spec.models, spec.perturb
    named: Settings = {"perturb": isinstance(perturb, Directions), "models_reset_every": 1}
    if isinstance(perturb, Directions):
        named |= {"perturb_directions": perturb.count, "perturb_min": perturb.min, "perturb_max": perturb.max}
        named |= {"perturb_norm": perturb.norm, "perturb_distribution": "standard normal"}
        named |= {"perturb_sign": "random, independent", "perturb_same_direction": False}
    if isinstance(pool, ExpertTrajectories):
        return named | {"models": "expert trajectories"}
    if not isinstance(pool, EarlyStagePool):
        source = "random" if isinstance(pool, RandomInit) else type(pool).__name__
        return named | {"models": source, "models_drawn": "one per outer iteration", "pool_size": 0}
    falling = rate_schedule(pool.epochs + 1, pool.optimiser.lr) if pool.schedule == "thirds" else []
    rates = [step for step in falling if step[0] <= pool.epochs] or [[1, pool.optimiser.lr]]
    return {
        **named,
        "models": "pool",
        "models_drawn": "uniformly, one per outer iteration",
        "pool_size": pool.size,
        "pool_checkpoint": "last epoch",
        "pretrain_epochs": pool.epochs,
        "pretrain_batch": pool.batch,
        "pretrain_cutmix_prob": pool.cutmix,
        **_sgd("pretrain", pool.optimiser),
        "pretrain_lr": rates,
        **augmentation("pretrain", pool.augment),
    }


def trajectories(spec: Spec, classes: int) -> Settings:
    student, experts = spec.objective, spec.models
    assert isinstance(student, TrajectoryMatching)
    if not isinstance(experts, ExpertTrajectories):
        return {}
    return {
        "mtt_syn_steps": student.steps,
        "mtt_batch_syn": student.batch or classes * spec.ipc,
        "mtt_lr_start": student.rate,
        "mtt_lr_lr": student.rate_lr,
        "mtt_lr_lr_momentum": student.rate_momentum,
        "mtt_student_optimizer": "plain SGD with the learnable rate",
        "mtt_expert_epochs": experts.ahead,
        "mtt_max_start_epoch": experts.start,
        "mtt_experts": experts.size,
        "mtt_expert_total_epochs": experts.start - 1 + experts.ahead,
        "mtt_expert_batch": experts.batch,
        "mtt_expert_lr_schedule": "constant",
        **_sgd("mtt_expert", experts.optimiser),
        **augmentation("mtt_expert", experts.augment),
    }


def alignment(spec: Spec) -> Settings:
    objective, rule = spec.objective, spec.update
    assert isinstance(objective, LayerwiseAlignment)
    named: Settings = {
        "cafe_weight_first": objective.pooled,
        "cafe_weight_second": objective.deep,
        "cafe_weight_third": objective.middle,
        "cafe_weight_fourth": objective.shallow,
        "cafe_weight_inner": objective.discrimination,
        "cafe_weight_embedding": 1.0,
    }
    if isinstance(rule, DynamicTraining):
        named |= {"cafe_lambda_1": rule.flat, "cafe_lambda_2": rule.moved}
        named |= {"cafe_watch_images_per_class": rule.images, "cafe_window": 10}
        named |= {"cafe_bound": f"{spec.inner_steps} image steps, {rule.max_epochs} epochs"}
    return named


def evaluation(spec: Spec, protocol: Protocol) -> Settings:
    """Return the training settings behind the published figures: the stand-alone test of IDC's family."""
    learned = isinstance(spec.objective, TrajectoryMatching) and protocol.name in LEARNED_RATE
    rates = rate_schedule(protocol.epochs, protocol.rate, protocol.schedule)
    multi = getattr(spec.parameterisation, "decode_type", "single") == "multi"
    cells = spec.parameterisation.factor**2
    images = spec.parameterisation.decoded(spec.ipc) if multi else spec.ipc * cells
    numbers = {
        "epochs": protocol.epochs,
        "batch": protocol.batch,
        "lr": LEARNED if learned else protocol.rate,
        "weight_decay": protocol.weight_decay,
        "cutmix_prob": protocol.cutmix,
        "decode": "none" if spec.parameterisation.factor == 1 else "single",
        "images_per_class": images,
        "aug": _members(protocol.augment),
    }
    released = {f"eval_{name}": value for name, value in numbers.items()}
    script = {f"eval_script_{name}": value for name, value in numbers.items()}
    basic = {PhotoAugment: PHOTOS, BasicAugment: BASIC}.get(type(protocol.augment), [])
    return {
        **released,
        **script,
        **augmentation("eval", protocol.augment),
        "eval_passes": protocol.passes,
        "eval_lr_schedule": [[1, LEARNED], [rates[1][0], "a tenth of it"]] if learned else rates,
        "eval_optimizer": "SGD",
        "eval_momentum": protocol.momentum,
        "eval_new_optimizer_at_drop": bool(protocol.course.restarts),
        "eval_cutmix_beta": 1.0,
        "eval_basic_aug": basic,
    }


# ------------------------------------------------------------------ helpers


def _sgd(prefix: str, optimiser: NetworkSGD) -> Settings:
    return {
        f"{prefix}_lr": optimiser.lr,
        f"{prefix}_momentum": optimiser.momentum,
        f"{prefix}_weight_decay": optimiser.weight_decay,
    }


def rate_schedule(epochs: int, rate: float, schedule: str = "thirds") -> list[list[float]]:
    """Return [[epoch, counted from 1, learning rate from then on], ...] of a schedule of ``schedules.SCHEDULES``."""
    rule = SCHEDULES[schedule]
    drops = enumerate(rule.drops(epochs), 1)
    return [[1, rate], *([epoch + 1, rate * rule.factor**n] for n, epoch in drops)]


def _members(augment: Augmentation) -> str:
    return augment.strategy if isinstance(augment, Siamese) else ""


def augmentation(prefix: str, augment: Augmentation) -> Settings:
    choose = augment.choose if isinstance(augment, Siamese) else "none"
    named: Settings = {f"{prefix}_aug": _members(augment), f"{prefix}_aug_choice": choose}
    if isinstance(augment, BasicAugment):
        named = {f"{prefix}_aug": "crop_scale_rotate", f"{prefix}_aug_choice": "one per image"}
    return named | ({f"{prefix}_aug_per_image": True} if prefix != "match" else {})
