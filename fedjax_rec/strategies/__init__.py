"""Federated algorithms: the assembly, and recipes of a few lines."""

from .federated import federated
from .recipes import fedavg, fedmf, fedncf, pfedrec
from .server import from_optax, step

__all__ = ["fedavg", "federated", "fedmf", "fedncf", "from_optax", "pfedrec", "step"]
