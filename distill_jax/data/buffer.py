"""The resident class buffer, which keeps a part of the real data on the device and reads the rest when it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from distill_jax.data.dataset import Dataset
from distill_jax.types import Feed, Normaliser, RealData, RequestError


class Buffer:
    """Serves the training images in *portions*, numbered from 0, of at most M = ``resident`` images per class.

    A portion is a training set of its own. A step that uses all real images (a model update, k-means, the first
    synthetic images) uses the images of the portion, and a batch has at most M different images of a class. Portions
    take M images of a class after the other from a random permutation of the class, and a new permutation begins when
    the class is exhausted; the last portion of a permutation is filled up from its beginning. ``portions`` portions
    show every image at least once, and the images of small classes several times. ``seed`` and the number of a portion
    alone determine its images. ``run.steps_per_portion`` gives the number of steps that use one portion.

    The device holds one portion. A thread reads the next one in the meantime, so that the host holds one as well.
    """

    def __init__(
        self, data: Dataset, resident: int, seed: int, mean: Sequence[float] = (), std: Sequence[float] = ()
    ) -> None:
        """``mean`` and ``std`` as in ``Dataset.real_data``; the default statistics are those of the whole ``data``."""
        self.counts = np.minimum(data.counts, resident)
        """int64 [C]: images of each class in a portion"""
        self.portions = int(np.max(-(-data.counts // resident)))
        """number of portions that make up the data"""
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
        """Return portion ``n`` on the device, and delete the images of the previous portion from it."""
        n = n if self.portions > 1 else 0
        if self._held is None or self._held[0] != n:
            number, future = self._next
            portion = future.result() if number == n else self.read(n)
            if self._held is not None:
                self._held[1].images.delete()
            self._held = n, portion.real_data(*self._statistics)
            if self.portions > 1:
                self._next = n + 1, self._reader.submit(self.read, n + 1)
        return self._held[1]

    def read(self, n: int) -> Dataset:
        """Return portion ``n`` on the host, in data-set order."""
        rows = np.sort(np.concatenate([self._class_rows(c, n) for c in range(self._data.classes)]))
        return replace(self._data, x_train=self._data.x_train[rows], y_train=self._data.y_train[rows])

    def _class_rows(self, c: int, n: int) -> np.ndarray:
        """Return the rows of the training part that are the images of class ``c`` in portion ``n``."""
        members = self._members[c]
        epoch, portion = divmod(n, -(-len(members) // self._resident))
        order = np.random.default_rng([self._seed, c, epoch]).permutation(len(members))
        return members[np.take(order, portion * self._resident + np.arange(self.counts[c]), mode="wrap")]


def feed(data: Dataset, resident: int, seed: int, mean: Sequence[float] = (), std: Sequence[float] = ()) -> Feed:
    """Return the training part: a Buffer of ``resident`` images per class, or all images on the device if ``resident``
    is 0 or no class has more images. Raise RequestError if ``resident`` is negative."""
    if resident < 0:
        raise RequestError(f"resident is {resident}: it must be 0 (all of them) or more")
    if not 0 < resident < max(data.counts):
        return data.real_data(mean, std)
    return Buffer(data, resident, seed, mean, std)
