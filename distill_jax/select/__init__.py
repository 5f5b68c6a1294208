"""Which real images: selectors, for every inner step, and initialisations that choose with the same rules."""

from distill_jax.select.init import Chosen, Herding, KCenter, KMeansInit
from distill_jax.select.kmeans import Clusters, kmeans, lloyd, medoids, plus_plus, squared_distances
from distill_jax.select.random import NoReal, RandomBatch
from distill_jax.select.representative import Representative
from distill_jax.select.rules import Rule, choose, embed, herding, k_center, representatives

__all__ = [
    "Chosen",
    "Clusters",
    "Herding",
    "KCenter",
    "KMeansInit",
    "NoReal",
    "RandomBatch",
    "Representative",
    "Rule",
    "choose",
    "embed",
    "herding",
    "k_center",
    "kmeans",
    "lloyd",
    "medoids",
    "plus_plus",
    "representatives",
    "squared_distances",
]
