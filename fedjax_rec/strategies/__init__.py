"""Federated algorithms: the assembly, and recipes of a few lines."""

from .federated import federated
from .fetchsgd import fetch_sgd
from .pruning import federated_dropout, prune_fl, pruning
from .recipes import colr, fedavg, fedmf, fedncf, pfedrec
from .server import from_optax, step
from .two_trip import power_sgd

__all__ = [
    "colr", "fedavg", "federated", "federated_dropout", "fedmf", "fedncf", "fetch_sgd",
    "from_optax", "pfedrec", "power_sgd", "prune_fl", "pruning", "step",
]  # fmt: skip
