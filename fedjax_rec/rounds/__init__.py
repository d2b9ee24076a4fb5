"""Engines: how the clients of a round are played, and what surrounds them."""

from .asynchronous import asynchronous
from .clock import Clock, lognormal_clock, traced_clock
from .decentralized import decentralized
from .exchange import Exchange, average, cycle, derangement, gossip, pairs, periodic
from .federated import federated
from .graph_guided import graph_guided
from .graphs import (
    Graph,
    complete,
    contraction,
    erdos_renyi,
    exponential,
    from_matrix,
    metropolis,
    ring,
    torus,
)
from .inflight import Held, Staleness
from .memory import memory_budget
from .selection import over_selection, selecting
from .two_trip import power_sgd
from .user_clusters import from_clusters, propagating
from .user_graph import (
    Neighbours,
    Similarity,
    above_mean,
    cosine_distance_as_released,
    cosine_similarity,
    nearest,
)
from .utility import Utility, by_size, evenly, in_proportion, oort, power_of_choice

__all__ = [
    "Clock", "Exchange", "Graph", "Held", "Neighbours", "Similarity", "Staleness", "Utility",
    "above_mean", "asynchronous", "average", "by_size", "complete", "contraction",
    "cosine_distance_as_released", "cosine_similarity", "cycle", "decentralized", "derangement",
    "erdos_renyi", "evenly", "exponential", "federated", "from_clusters", "from_matrix", "gossip",
    "graph_guided", "in_proportion", "lognormal_clock", "memory_budget", "metropolis", "nearest",
    "oort", "over_selection", "pairs", "periodic", "power_of_choice", "power_sgd", "propagating",
    "ring", "selecting", "torus", "traced_clock",
]  # fmt: skip
