"""What a client does with its own data."""

from .local import local_training
from .optimizers import Local, from_optax, groups, sgd

__all__ = ["Local", "from_optax", "groups", "local_training", "sgd"]
