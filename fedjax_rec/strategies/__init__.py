"""Federated algorithms: the assembly, and recipes of a few lines."""

from .federated import federated
from .server import from_optax, step

__all__ = ["federated", "from_optax", "step"]
