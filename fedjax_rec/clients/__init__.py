"""What a client does with its own data."""

from .local import local_training
from .optimizers import Local, from_optax, groups, sgd
from .submodel import submodel
from .subspace import subspace

__all__ = ["Local", "from_optax", "groups", "local_training", "sgd", "submodel", "subspace"]
