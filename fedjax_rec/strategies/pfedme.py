"""pFedMe: local training along the gradient of a Moreau envelope.

    theta <- theta - eta_p (grad f(theta; batch) + lam (theta - w_k)),   K times from theta = w_k
    w_k   <- w_k - eta lam (w_k - theta)
    x     <- (1 - beta) x + beta mean_k w_k

(Dinh, Tran & Nguyen, "Personalized federated learning with Moreau envelopes", NeurIPS 2020,
algorithm 1.)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from .. import rows
from ..aggregate import uniform
from ..check import at_least, positive
from ..clients import Local, sgd
from ..clients.batches import Passes
from ..clients.optimizers import as_local, covered
from ..clients.training import (
    descent,
    first_private,
    several,
)
from ..data import Batches
from ..rounds.federated import federated
from ..rows.batch import back, of_batch, pulled
from ..servers.step import step
from ..types import (
    Aggregator,
    Client,
    Model,
    PyTree,
    Strategy,
    Transform,
)
from .fedprox import proximal
from .reconstruction import fine_tuned

Optimizer = Local | Sequence[Local] | Transform


def pfedme(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    lam: float = 15.0,
    beta: float = 1.0,
    inner_steps: int = 5,
    optimizer: Optimizer | None = None,
    personal: Local | Transform | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    aggregator: Aggregator | None = None,
    **assembly,
) -> Strategy:
    """w_k <- w_k - eta lam (w_k - theta(w_k));  x <- (1 - beta) x + beta mean_k w_k.

    The probe sees the personal model, argmin_theta f_k(theta) + lam/2 |theta - x|^2 by `epochs`
    (or `steps`) of `personal` on the received x, private parameters free: a pass of its own, and
    none without a probe. Without it x scores, with the private part of w_k.
    `inner_steps` gradients a batch by its mathematics.
    Arguments that are not named here are those of `fedavg`.

    Args:
        lam: how hard theta is pulled to w_k.
        beta: the server's step.
        inner_steps: K, steps on theta a batch.
        optimizer: sgd(eta), default `sgd(0.01)`.
        personal: of theta, default `sgd(0.05)`; it must be stable under the pull, eta_p lam < 1.
        aggregator: default `uniform()`.
        assembly: as in `federated`, without `server`.

    Raises:
        ValueError: unless lam and beta are positive, and for inner_steps < 1.

    Example:
        >>> strategy = strategies.pfedme(model, data.pointwise(4), lam=15.0)
    """
    passes, personal = Passes(epochs, steps, batch_size), personal or sgd(0.05)
    client = pfedme_client(
        model, examples, optimizer or sgd(0.01), personal, lam, inner_steps, passes
    )
    if probe is not None:
        client = fine_tuned(client, proximal(model, examples, personal, lam, passes, probe))
    aggregator = aggregator or uniform()
    return federated(client, model, aggregator=aggregator, server=step(beta), **assembly)


def pfedme_client(
    model: Model,
    batches,
    optimizer: Local | Sequence[Local] | Transform,
    personal: Local | Transform,
    lam: float = 15.0,
    inner_steps: int = 5,
    passes: Passes = Passes(),
    probe=None,
) -> Client:
    """`local_training` along lam (w - theta), with theta from `inner_steps` steps of `personal`.

    The probe sees w_k. The paper's personal model, argmin f_k(theta) + lam/2 |theta - w|^2 with w
    the received model, is what `proximal(..., mu=lam)` trains: `pfedme` lets the probe see that
    one, in a pass of its own, and the server's model scores without it. Cost: `inner_steps`
    gradients a batch by its mathematics, on copies of the batch's rows.
    Arguments that are not named here are those of `local_training`.

    Args:
        optimizer: what moves w_k, sgd(eta).
        personal: sgd(eta_p), or another; it starts anew in every batch. Private parameters are part
            of w_k, and move like it. Rows that a batch does not touch have theta = w_k, exactly.
            `loss` is that of w_k before the steps.
        lam: how hard theta is pulled to w_k.
        inner_steps: K, steps on theta a batch.
        passes: how much a client does in a round.

    Raises:
        ValueError: unless lam is positive, and for inner_steps < 1.

    Example:
        >>> outer, inner = clients.sgd(0.01), clients.sgd(0.05)
        >>> client = strategies.pfedme_client(model, data.pointwise(4), outer, inner)
    """
    positive("pfedme", "lam", lam)
    at_least("pfedme", "inner_steps", inner_steps, 1)
    optimizers, inner = several(optimizer), as_local(personal)

    def moreau(now):
        return lambda start: partial(direction, now)

    def direction(now, gradient, params, batch):
        # Of the rows that the batch does not name, theta = w to the bit.
        start = of_batch(params, batch)

        def moved(theta, state, gradients):
            gradients = pulled(gradients, theta, start, lam)
            mine = covered(inner, _given(theta, gradients))
            state, changed = inner.apply(state, mine, _given(gradients, mine), jnp.bool_(True), now)
            return rows.merge(changed, theta), state

        def again(_, carry):
            theta, state = carry
            return moved(theta, state, gradient(theta, batch)[1])

        value, gradients = gradient(start, batch)
        first = moved(start, inner.init(_given(start, gradients), now), gradients)
        theta, _ = jax.lax.fori_loop(1, inner_steps, again, first)
        nothing = jax.tree.map(jnp.zeros_like, gradients)
        away = pulled(nothing, start, theta, lam)
        return value, back(away, start, params)

    def update(key, private, shared, data, now):
        steps = descent(model, batches, optimizers, passes, probe, moreau(now))
        return steps(key, private, shared, data, now)

    return Client(first_private(model), update, examples=batches)


def _given(tree: PyTree, like: PyTree) -> PyTree:
    """`tree` with None where `like` has none."""
    return rows.map_nodes(lambda y, x: x, like, tree)
