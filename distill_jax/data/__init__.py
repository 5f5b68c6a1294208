"""Real data. ``load`` returns a ``Dataset``; distillation uses its ``real_data()``, or portions of it (``feed``)."""

from distill_jax.data.buffer import Buffer, feed
from distill_jax.data.dataset import Dataset, Whitening
from distill_jax.data.known import PHOTOGRAPHS, SHAPES, TRAINING_IMAGES
from distill_jax.data.sources import READ_HERE, digits, load
from distill_jax.data.subset import LISTS, count_classes
from distill_jax.data.whiten import whiten, whitened

__all__ = [
    "LISTS",
    "PHOTOGRAPHS",
    "READ_HERE",
    "SHAPES",
    "TRAINING_IMAGES",
    "Buffer",
    "Dataset",
    "Whitening",
    "count_classes",
    "digits",
    "feed",
    "load",
    "whiten",
    "whitened",
]
