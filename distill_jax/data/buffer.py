"""The resident class buffer: a part of the data on the device, the rest where it was read from."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from distill_jax.data.dataset import Dataset
from distill_jax.types import Feed, Normaliser, RealData, RequestError


class Buffer:
    """At most M = ``resident`` training images of each class at a time, in *portions* numbered from 0.

    A portion is a training set of its own: what looks at all real images (a model update, k-means, the first synthetic
    images) sees those of the portion, and a batch has at most M different images of a class. A class is gone through M
    by M in an order that is drawn anew each time, the last portion filled up from its beginning; after ``portions`` of
    them every image was shown, those of small classes more than once. Which images a portion holds follows from
    ``seed`` and its number alone. ``run.steps_per_portion`` says for how many steps one stays.

    The device holds one portion. A thread reads the next one meanwhile, so that the host holds one as well.
    """

    def __init__(
        self, data: Dataset, resident: int, seed: int, mean: Sequence[float] = (), std: Sequence[float] = ()
    ) -> None:
        """``mean`` and ``std`` as for ``Dataset.real_data``; those of the images are those of all of ``data``."""
        self.counts = np.minimum(data.counts, resident)
        """int64 [C]: images of each class in a portion"""
        self.portions = int(np.max(-(-data.counts // resident)))
        """how many portions make up the data"""
        self._data, self._resident, self._seed = data, resident, seed
        self._members = [np.flatnonzero(data.y_train == c) for c in range(data.classes)]
        self._statistics = (mean or data.mean.tolist(), std or data.std.tolist())
        self._reader = ThreadPoolExecutor(1, "buffer")
        self._next: tuple[int, Future[Dataset]] = (-1, Future())
        self._held: tuple[int, RealData] | None = None

    @property
    def normaliser(self) -> Normaliser:
        return self.at(0 if self._held is None else self._held[0]).normaliser

    def at(self, n: int) -> RealData:
        """Portion ``n`` on the device. Images of the one that was there before are deleted."""
        n = n if self.portions > 1 else 0
        if self._held is None or self._held[0] != n:
            number, coming = self._next
            portion = coming.result() if number == n else self.read(n)
            if self._held is not None:
                self._held[1].images.delete()
            self._held = n, portion.real_data(*self._statistics)
            if self.portions > 1:
                self._next = n + 1, self._reader.submit(self.read, n + 1)
        return self._held[1]

    def read(self, n: int) -> Dataset:
        """Portion ``n`` on the host, in data-set order."""
        rows = np.sort(np.concatenate([self._drawn(c, n) for c in range(self._data.classes)]))
        return replace(self._data, x_train=self._data.x_train[rows], y_train=self._data.y_train[rows])

    def _drawn(self, c: int, n: int) -> np.ndarray:
        """Rows of the images of class ``c`` that portion ``n`` shows."""
        members = self._members[c]
        pass_, place = divmod(n, -(-len(members) // self._resident))
        order = np.random.default_rng([self._seed, c, pass_]).permutation(len(members))
        return members[np.take(order, place * self._resident + np.arange(self.counts[c]), mode="wrap")]


def feed(data: Dataset, resident: int, seed: int, mean: Sequence[float] = (), std: Sequence[float] = ()) -> Feed:
    """The training part: on the device as a whole where ``resident`` is 0 or no class has more images, else a Buffer of
    so many images of each class. Raises RequestError for a negative number."""
    if resident < 0:
        raise RequestError(f"resident_images is {resident}: it must be 0 (all of them) or more")
    if not 0 < resident < max(data.counts):
        return data.real_data(mean, std)
    return Buffer(data, resident, seed, mean, std)
