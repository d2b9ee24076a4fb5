"""FedProx: local training that is pulled back to where it started.

    x_k <- x_k - eta (grad f_k(x_k; batch) + mu (x_k - x))

(Li et al., "Federated optimization in heterogeneous networks", MLSys 2020, equation 2.) The pull
acts on every row that the client touches in the round, in every step; private parameters are free.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..aggregate import mean
from ..check import at_least
from ..clients import Local
from ..clients.batches import Passes
from ..clients.rates import rated
from ..clients.training import (
    Terms,
    descent,
    first_private,
    several,
)
from ..data import Batches
from ..rounds.federated import federated
from ..types import (
    Aggregator,
    Client,
    Model,
    Strategy,
    Transform,
)


def fedprox(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    mu: float = 0.01,
    optimizer: Local | Sequence[Local] | Transform | None = None,
    user_learning_rate: float | None = None,
    item_learning_rate: float | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    aggregator: Aggregator | None = None,
    **assembly,
) -> Strategy:
    """`fedavg` of clients that minimise f_k(x) + mu/2 |x - x0|^2.

    Arguments that are not named here are those of `fedavg`.

    Args:
        mu: 0 is `fedavg`.
        assembly: as in `federated`.

    Raises:
        ValueError: for mu < 0.

    Example:
        >>> strategy = strategies.fedprox(model, data.pointwise(4), mu=0.01)
    """
    local = rated(model, optimizer, user_learning_rate, item_learning_rate)
    passes = Passes(epochs, steps, batch_size)
    client = proximal(model, examples, local, mu, passes, probe)
    return federated(client, model, aggregator=aggregator or mean(), **assembly)


def proximal(
    model: Model,
    batches,
    optimizer: Local | Sequence[Local] | Transform,
    mu: float,
    passes: Passes = Passes(),
    probe=None,
) -> Client:
    """`local_training` with a pull of strength `mu` to the server's model.

    A step of SGD costs the rows of its batch, see `clients.lazy`; of other optimizers the client's
    whole local tables, as ever. Arguments that are not named here are those of `local_training`.

    Args:
        mu: 0 is no pull.
        passes: how much a client does in a round.

    Raises:
        ValueError: for mu < 0.

    Example:
        >>> client = strategies.proximal(model, data.pointwise(4), clients.sgd(0.1), mu=0.01)
    """
    at_least("proximal", "mu", mu, 0)
    optimizers, pulled = several(optimizer), lambda start: Terms(pull=mu)
    update = descent(model, batches, optimizers, passes, probe, terms=pulled)
    return Client(first_private(model), update, examples=batches)
