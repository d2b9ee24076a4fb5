"""Recommenders fitted on everybody's interactions in one place, and the models they fill."""

from .by_attributes import (
    attribute_neighbours,
    attribute_popularity,
    attribute_scores,
    attribute_weights,
)
from .ease import ease
from .fit import Fit, Histories
from .ials import ials
from .item_knn import item_knn
from .item_weights import item_weights
from .lightgcn import lightgcn
from .popularity import item_scores, popularity

__all__ = [
    "Fit", "Histories", "attribute_neighbours", "attribute_popularity", "attribute_scores",
    "attribute_weights", "ease", "ials", "item_knn", "item_scores", "item_weights", "lightgcn",
    "popularity",
]  # fmt: skip
