"""Time k-means of every class against scikit-learn, with the same kind of start and number of iterations."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import mean, median
from typing import Any, NamedTuple

import jax
import numpy as np
from sklearn.cluster import KMeans

from distill_jax import tree
from distill_jax.axes.selector import Clusters, kmeans
from distill_jax.platform import on_cpu
from distill_jax.types import Array


@dataclass(frozen=True)
class Size:
    """The size of the clustering problem, one per class."""

    classes: int = 10
    images: int = 5000
    """images per class"""
    features: int = 2048
    clusters: int = 128
    iterations: int = 10


SIZES = {
    "cifar10": Size(),
    "cifar10-small": Size(features=512),
    "digits": Size(images=134, features=128, clusters=32),
    "tiny": Size(2, 40, 8, 4, 3),
}


class Timed(NamedTuple):
    """One measurement of all classes."""

    seconds: float
    """wall-clock time"""
    cpu: float
    """processor seconds, summed over all processors"""
    inertia: float
    """mean over classes"""


def time_kmeans(shapes: str, pairs: int) -> dict[str, Any]:
    """Measure the seconds for all classes, alternating between ours and scikit-learn. A ratio above 1 means that ours
    is faster."""
    size = SIZES[shapes]
    points = _embeddings(size)
    began = time.perf_counter()
    chunk = 1 if on_cpu() else size.classes
    program = jax.jit(partial(_inertias, size, chunk)).lower(points, jax.random.key(0)).compile()
    compile_s = time.perf_counter() - began
    host = np.asarray(points)
    ours, peer = [], []
    for seed in range(pairs):
        ours.append(_timed(partial(program, points, jax.random.key(seed))))
        peer.append(_timed(partial(_sklearn_inertias, size, host, seed)))
    return {
        "kmeans": {
            "ours_s": median(one.seconds for one in ours),
            "ours_cpu_s": median(one.cpu for one in ours),
            "compile_s": compile_s,
            "peer_s": median(one.seconds for one in peer),
            "peer_cpu_s": median(one.cpu for one in peer),
            "ratios": [theirs.seconds / mine.seconds for mine, theirs in zip(ours, peer, strict=True)],
            "inertia_ratio": mean(one.inertia for one in ours) / mean(one.inertia for one in peer),
        }
    }


def _inertias(size: Size, chunk: int, points: Array, key: Array) -> Array:
    """Cluster each class and return its inertia, float32 [C]."""

    def cluster(class_points_and_key: tuple[Array, Array]) -> Clusters:
        class_points, class_key = class_points_and_key
        return kmeans(class_points, size.images, size.clusters, class_key, size.iterations, tolerance=0.0)

    return tree.map_chunks(cluster, (points, jax.random.split(key, size.classes)), chunk).inertia


def _sklearn_inertias(size: Size, points: np.ndarray, seed: int) -> np.ndarray:
    """Cluster each class with scikit-learn and return its inertia, [C]."""
    peer = KMeans(size.clusters, n_init=1, max_iter=size.iterations, tol=0.0, random_state=seed)  # type: ignore
    return np.asarray([peer.fit(class_points).inertia_ for class_points in points])


def _timed(work: Callable[[], Array | np.ndarray]) -> Timed:
    seconds, cpu = time.perf_counter(), time.process_time()
    inertia = np.asarray(jax.block_until_ready(work()))
    return Timed(time.perf_counter() - seconds, time.process_time() - cpu, float(inertia.mean()))


@partial(jax.jit, static_argnums=0)
def _embeddings(size: Size) -> Array:
    """Draw float32 [C, N, E]: ReLU of points around three times as many centres as there are clusters."""
    centre_key, pick_key, noise_key = jax.random.split(jax.random.key(0), 3)
    centres = jax.random.normal(centre_key, (3 * size.clusters, size.features))
    picks = jax.random.randint(pick_key, (size.classes, size.images), 0, len(centres))
    noise = jax.random.normal(noise_key, (size.classes, size.images, size.features))
    return jax.nn.relu(centres[picks] + noise)
