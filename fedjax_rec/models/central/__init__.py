"""Recommenders fitted in closed form on everybody's interactions, and the models they fill."""

from .ease import ease
from .fit import Fit
from .ials import ials
from .item_knn import item_knn
from .item_weights import item_weights
from .popularity import item_scores, popularity

__all__ = ["Fit", "ease", "ials", "item_knn", "item_scores", "item_weights", "popularity"]
