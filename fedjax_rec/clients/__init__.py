"""What a client does with its own data."""

from .control import controlled
from .dynamic import dynamic
from .full_gradient import full_gradient
from .keeping import keeping
from .local import local_training
from .optimizers import Local, from_optax, groups, scheduled, sgd
from .proximal import proximal
from .submodel import submodel
from .subspace import subspace
from .turns import Passes

__all__ = [
    "Local", "Passes", "controlled", "dynamic", "from_optax", "full_gradient", "groups", "keeping",
    "local_training", "proximal", "scheduled", "sgd", "submodel", "subspace",
]  # fmt: skip
