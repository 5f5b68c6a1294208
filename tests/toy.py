"""A two-class 8x8 data set, and small problems on it, for property tests of whole steps."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from configs import resolve
from distill_jax.distill import Problem
from distill_jax.nets import ConvNet
from distill_jax.spec import Spec, with_chunks
from distill_jax.types import RealData

SHAPE = (8, 8, 1)
COUNTS = (9, 7)
SMALL = {
    "spec.net": ConvNet(depth=1, width=4),
    "models.size": 2,
    "models.epochs": 1,
    "models.live": 2,
    "selector.batch": 4,
    "update.images": 8,
    "update.batch": 4,
    "objective.steps": 2,
    "outer_steps": 2,
    "inner_steps": 2,
}


def data() -> RealData:
    """Class 0 is bright on the left, class 1 on the right; 9 and 7 noisy images of them."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], COUNTS)
    images = rng.integers(0, 100, (len(labels), *SHAPE))
    images[labels == 0, :, :4] += 120
    images[labels == 1, :, 4:] += 120
    index = np.stack([np.resize(np.flatnonzero(labels == c), max(COUNTS)) for c in (0, 1)])
    pixels = images / 255
    return RealData(
        images=jnp.asarray(images, jnp.uint8),
        labels=jnp.asarray(labels, jnp.int32),
        index=jnp.asarray(index, jnp.int32),
        counts=jnp.asarray(COUNTS, jnp.int32),
        mean=jnp.asarray(pixels.mean(keepdims=True).reshape(1), jnp.float32),
        std=jnp.asarray(pixels.std(keepdims=True).reshape(1), jnp.float32),
    )


def problem(method: str, seed: int = 0, **changes) -> Problem:
    """A preset, shrunk to the toy: ``changes`` replace fields of its spec."""
    experiment = resolve(method, "digits", ipc=2, shape=SHAPE)
    # Experts of one short epoch are so near to their start that the published rates overshoot.
    spec, hyper = shrunk(experiment.spec), replace(experiment.hyper, rate_lr=1e-7)
    spec = with_chunks(replace(spec, **changes), len(COUNTS), "cpu")
    net, real = spec.net.build(SHAPE, len(COUNTS)), data()
    pool_key, root = jax.random.split(jax.random.key(seed))
    pool = spec.models.pretrain(net, real, hyper, pool_key, lambda done, total: None)
    return Problem(spec, net, hyper, real, pool, root)


def shrunk(spec: Spec) -> Spec:
    """The spec with everything small that can be: see SMALL."""
    for path, value in SMALL.items():
        *axis, field = path.removeprefix("spec.").split(".")
        if not axis:
            spec = replace(spec, **{field: value})
        elif hasattr(getattr(spec, axis[0]), field) and getattr(getattr(spec, axis[0]), field):
            spec = replace(spec, **{axis[0]: replace(getattr(spec, axis[0]), **{field: value})})
    return spec
