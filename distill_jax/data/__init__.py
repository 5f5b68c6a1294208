"""Real data: ``load`` gives a ``Dataset``, whose ``real_data()`` is what distillation sees."""

from distill_jax.data.dataset import Dataset, Whitening
from distill_jax.data.known import SHAPES, TRAINING_IMAGES
from distill_jax.data.sources import digits, load
from distill_jax.data.subset import LISTS, count_classes
from distill_jax.data.whiten import whiten, whitened

__all__ = [
    "LISTS",
    "SHAPES",
    "TRAINING_IMAGES",
    "Dataset",
    "Whitening",
    "count_classes",
    "digits",
    "load",
    "whiten",
    "whitened",
]
