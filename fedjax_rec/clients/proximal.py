"""FedProx: local training that is pulled back to where it started.

    x_k <- x_k - eta (grad f_k(x_k; batch) + mu (x_k - x))

(Li et al., "Federated optimization in heterogeneous networks", MLSys 2020, equation 2.) The pull
acts on every row that the client touches in the round, in every step; private parameters are free.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..check import at_least
from ..types import Client, Model, Transform
from .batches import Passes
from .optimizers import Local
from .training import Terms, descent, first_private, moving, several


def proximal(
    model: Model,
    batches,
    optimizer: Local | Sequence[Local] | Transform,
    mu: float,
    passes: Passes = Passes(),
    probe=None,
) -> Client:
    """`local_training` with a pull of strength `mu` to the server's model; 0 is none.

    A step of SGD costs the rows of its batch, see `drift`; of other optimizers the client's whole
    local tables, as ever. Raises ValueError for mu < 0.
    """
    at_least("proximal", "mu", mu, 0)
    optimizers, pulled = several(optimizer), lambda start: Terms(pull=mu)
    update = descent(model, batches, optimizers, passes, probe, terms=pulled)
    at = moving(optimizers, lambda now: proximal(model, batches, now, mu, passes, probe))
    return Client(first_private(model), update, at)
