"""FedRAP: federated averaging of a shared table beside private ones (Li et al., ICLR 2024).

    D_k, C_k, w_k  <-  E epochs of SGD from (D_k, C, w_k),     C <- mean_k C_k

The step at batch t (from 0) of round r is the learning rate times a^t b^r, with a = .95 and b = .97
in the authors' code (github mtics/FedRAP).
"""

from __future__ import annotations

import jax.numpy as jnp

from ..aggregate import uniform
from ..check import holds, positive
from ..clients import Local, groups, sgd
from ..data import Batches
from ..rows import scale
from ..types import Aggregator, Model, Strategy
from .fedavg import fedavg


def fedrap(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    learning_rate: float = 1e-4,
    item_learning_rate: float = 1000.0,
    batch_decay: float = 0.95,
    round_decay: float = 0.97,
    epochs: int = 10,
    batch_size: int = 2048,
    aggregator: Aggregator | None = None,
    **kwargs,
) -> Strategy:
    """Additive personalization of `models.fedrap`; the server averages the shared tables.

    All clients count the same (default `uniform()`), whether they touched a row or not.

    The defaults are those of the released code, the rates those of its command for MovieLens-100K.
    Left out are its weight decay (1e-6 there), which shrinks rows that no client touched, and its
    early stop, which ends the epochs of a client whose loss moved by less than 1e-4 of itself. The
    schedule of lambda and mu that the code computes (tanh of the round) never reaches its loss:
    they are constant there, and here, arguments of the model.

    Arguments that are not named here are those of `fedavg`.

    Args:
        model: one with the tables `item` and `own`, such as `models.fedrap(num_items)`.
        learning_rate: of the scorer.
        item_learning_rate: of both tables.
        batch_decay: a above.
        round_decay: b above.
        kwargs: as in `fedavg`, without `optimizer`.

    Raises:
        ValueError: as `annealed_sgd`.

    Example:
        >>> strategy = strategies.fedrap(models.fedrap(num_items), data.pointwise(4))
    """
    rate = lambda value: annealed_sgd(value, batch_decay, round_decay)
    tables = rate(item_learning_rate)
    # The first name that matches takes a parameter: what is left of `private` is the scorer.
    optimizer = groups({"item": tables, "own": tables, "private": rate(learning_rate)})
    return fedavg(
        model, examples, probe, optimizer=optimizer, user_learning_rate=None,
        item_learning_rate=None, epochs=epochs, batch_size=batch_size,
        aggregator=aggregator or uniform(), **kwargs,
    )  # fmt: skip


def annealed_sgd(learning_rate: float, batch_decay: float, round_decay: float) -> Local:
    """Steps p <- p - learning_rate * batch_decay^t * round_decay^r * g, at batch t of the client's
    own in round r, both from 0; batches of padding do not count.

    Args:
        learning_rate: at the first batch of the first round. All three may be traced.
        batch_decay: a, what a batch leaves of it.
        round_decay: b, what a round leaves of it.

    Returns:
        A `Local` whose state is the factor of the next batch.

    Raises:
        ValueError: for learning_rate <= 0, and outside 0 < decay <= 1.

    Example:
        >>> slower = strategies.annealed_sgd(0.1, batch_decay=0.95, round_decay=0.97)
        >>> strategy = strategies.fedavg(model, data.pointwise(4), optimizer=slower)
    """
    positive("annealed_sgd", "learning_rate", learning_rate)
    for name, value in (("batch_decay", batch_decay), ("round_decay", round_decay)):
        if not holds(value, lambda x: (x > 0) & (x <= 1)):
            raise ValueError(f"annealed_sgd({name}={value}) is no decay; use 0 < {name} <= 1.")

    descent = sgd(learning_rate)

    def first(params, now):
        return jnp.float32(round_decay) ** jnp.asarray(now.round, jnp.float32)

    def apply(state, params, gradients, active, now):
        _, params = descent.apply((), params, scale(gradients, state), active, now)
        return jnp.where(active, state * batch_decay, state), params

    return Local(first, apply)
