"""The selector axis: the choice of each class's real images in an inner step."""

from distill_jax.axes.selector.anchors import Anchors, surest_images
from distill_jax.axes.selector.kmeans import Clusters, kmeans, lloyd, medoids, plus_plus, squared_distances
from distill_jax.axes.selector.random import NoReal, RandomBatch, draw_distinct
from distill_jax.axes.selector.representative import Representative
from distill_jax.axes.selector.rules import Rule, choose, embed, herding, k_center, representatives

__all__ = [
    "Anchors",
    "Clusters",
    "NoReal",
    "RandomBatch",
    "Representative",
    "Rule",
    "choose",
    "draw_distinct",
    "embed",
    "herding",
    "k_center",
    "kmeans",
    "lloyd",
    "medoids",
    "plus_plus",
    "representatives",
    "squared_distances",
    "surest_images",
]
