"""What a client does with its own data."""

from .control import controlled
from .dynamic import dynamic
from .full_gradient import full_gradient
from .local import local_training
from .optimizers import Local, from_optax, groups, sgd
from .proximal import proximal
from .submodel import submodel
from .subspace import subspace

__all__ = [
    "Local", "controlled", "dynamic", "from_optax", "full_gradient", "groups", "local_training",
    "proximal", "sgd", "submodel", "subspace",
]  # fmt: skip
