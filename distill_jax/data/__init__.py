"""Real data: ``load`` gives a ``Dataset``, whose ``real_data()`` is what distillation sees."""

from distill_jax.data.dataset import Dataset
from distill_jax.data.sources import digits, load

__all__ = ["Dataset", "digits", "load"]
