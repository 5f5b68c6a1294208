"""Random networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax

from distill_jax.models.perturb import Drawn
from distill_jax.types import Array, Model, Net, RealData, Tick


@dataclass(frozen=True)
class RandomInit(Drawn):
    """Freshly initialised networks at every outer iteration: DC, DSA, DM, CAFE, IDC, DREAM."""

    @property
    def size(self) -> int:
        """There is no pool."""
        return 0

    def pretrain(self, net: Net, data: RealData, hyper: Any, key: Array, tick: Tick) -> None:
        """There is nothing to train."""

    def sample(self, net: Net, pool: None, hyper: Any, key: Array) -> Model:
        """Model[K]."""
        init_key, perturb_key = jax.random.split(key)
        return self.perturbed(jax.vmap(net.init)(jax.random.split(init_key, self.live)), hyper, perturb_key)
