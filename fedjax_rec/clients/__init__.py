"""What a client does with its own data."""

from .apfl import apfl
from .batches import Passes
from .control import controlled
from .ditto import ditto
from .dynamic import dynamic
from .full_gradient import full_gradient
from .keeping import keeping
from .maml import maml
from .optimizers import Local, accumulated, from_optax, groups, scheduled, sgd
from .pfedme import pfedme
from .proximal import proximal
from .sequence import anew, fine_tuned, in_sequence
from .submodel import submodel
from .subspace import subspace
from .training import local_training

__all__ = [
    "Local", "Passes", "accumulated", "anew", "apfl", "controlled", "ditto",
    "dynamic", "fine_tuned", "from_optax", "full_gradient", "groups", "in_sequence", "keeping",
    "local_training", "maml", "pfedme", "proximal", "scheduled", "sgd", "submodel",
    "subspace",
]  # fmt: skip
