"""Random networks."""

from __future__ import annotations

import jax

from distill_jax.contracts import ModelSource
from distill_jax.types import Array, Model, Net, choice


@choice
class RandomInit(ModelSource):
    """Freshly initialised networks at every outer iteration: DC, DSA, DM, CAFE, IDC, DREAM."""

    def sample(self, net: Net, pool: None, live: int, key: Array) -> Model:
        """Model[K]."""
        return jax.vmap(net.init)(jax.random.split(key, live))
