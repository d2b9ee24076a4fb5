"""What a client does with its own data, and what methods share of it."""

from .batches import Passes
from .keeping import keeping
from .optimizers import Local, accumulated, from_optax, groups, scheduled, sgd
from .reporting import reporting
from .subspace import subspace
from .training import local_training

__all__ = [
    "Local", "Passes", "accumulated", "from_optax", "groups", "keeping", "local_training",
    "reporting", "scheduled", "sgd", "subspace",
]  # fmt: skip
