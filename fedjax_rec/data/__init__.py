"""Data sets, splits, partitions of users over clients, and packing on the device."""

from .batches import Batches, pairwise, pointwise, ratings
from .by_vectors import by_vectors
from .cases import Cases
from .categories import categories
from .cold_items import cold_items, warm_items
from .cold_users import cold_users, warm_users
from .counted import counted
from .covered import covered
from .digest import digests, digests_of_examples
from .drawn_once import drawn_once
from .evaluation_draws import EvaluationDraws, popularity_draws, uniform_draws
from .examples import Examples, ExampleStore, HeldOut, describe_examples, examples, pack_examples
from .features import Encoded, Features, features
from .fields import Field, equal_width, min_max, quantile_bins, tokens, z_score
from .given_split import as_given
from .interactions import (
    Interactions,
    describe,
    from_arrays,
    implicit,
    k_core,
    latest_of_pairs,
)
from .negative_draws import NegativeDraws, popular_negatives
from .packed import packed_prompts, with_prefix
from .partition import Partition, by_attribute, by_hash, by_user, dirichlet
from .random_split import random_leave_one_out
from .sequences import sequences
from .sources.asked import last_of_users, last_ratings
from .sources.clicks import click_logits, clicks
from .sources.codes import text_codes
from .sources.liked_pairs import liked_pairs
from .sources.matched import with_match
from .sources.prior import with_prior, without_history, without_title
from .sources.prompts import as_chat, liked_and_disliked, prompt_template, yes_no_prompts
from .sources.read import read
from .sources.sources import load
from .sources.synthetic import synthetic
from .sources.text import titles
from .splits import (
    Split,
    global_time,
    leave_one_out,
    ratio,
    temporal_ratio,
    tied_ends,
)
from .store import ClientData, Dataset, Store, pack
from .subsets import part_of, query, support
from .whole_catalogue import whole_catalogue
from .window import between

__all__ = [
    "Batches", "Cases", "ClientData", "Dataset", "Encoded", "EvaluationDraws", "ExampleStore",
    "Examples", "Features", "Field", "HeldOut", "Interactions", "NegativeDraws", "Partition",
    "Split", "Store", "as_chat", "as_given", "between", "by_attribute", "by_hash", "by_user",
    "by_vectors", "categories", "click_logits", "clicks", "cold_items", "cold_users", "counted",
    "covered", "describe", "describe_examples", "digests", "digests_of_examples", "dirichlet",
    "drawn_once", "equal_width", "examples", "features", "from_arrays", "global_time", "implicit",
    "k_core", "last_of_users", "last_ratings", "latest_of_pairs", "leave_one_out",
    "liked_and_disliked", "liked_pairs", "load", "min_max", "pack", "pack_examples",
    "packed_prompts", "pairwise", "part_of", "pointwise", "popular_negatives", "popularity_draws",
    "prompt_template", "quantile_bins", "query", "random_leave_one_out", "ratings", "ratio", "read",
    "sequences", "support", "synthetic", "temporal_ratio", "text_codes", "tied_ends", "titles",
    "tokens", "uniform_draws", "warm_items", "warm_users", "whole_catalogue", "with_match",
    "with_prefix", "with_prior", "without_history", "without_title", "yes_no_prompts", "z_score",
]  # fmt: skip
