"""Federated algorithms: the assembly, and recipes of a few lines."""

from .adaptive import fed_adagrad, fed_adam, fed_avg_m, fed_lion, fed_yogi
from .corrected import feddyn, fednova, fedprox, scaffold
from .decentralized import decentralized
from .exchange import Exchange, average, cycle, derangement, gossip, pairs, periodic
from .federated import federated
from .fetchsgd import fetch_sgd
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
from .pruning import federated_dropout, prune_fl, pruning
from .recipes import colr, fedavg, fedmf, fedncf, gossip_sgd, model_swapping, pfedrec
from .server import from_optax, scheduled_step, step
from .shared_gradients import fedsgd, fsvrg, mime, mime_lite
from .two_trip import power_sgd

__all__ = [
    "Exchange", "Graph", "average", "colr", "complete", "contraction", "cycle", "decentralized",
    "derangement", "erdos_renyi", "exponential", "fed_adagrad", "fed_adam", "fed_avg_m",
    "fed_lion", "fed_yogi", "fedavg", "feddyn", "federated", "federated_dropout", "fedmf",
    "fedncf", "fednova", "fedprox", "fedsgd", "fetch_sgd", "from_matrix", "from_optax", "fsvrg",
    "gossip", "gossip_sgd", "metropolis", "mime", "mime_lite", "model_swapping", "pairs",
    "periodic", "pfedrec", "power_sgd", "prune_fl", "pruning", "ring", "scaffold",
    "scheduled_step", "step", "torus",
]  # fmt: skip
