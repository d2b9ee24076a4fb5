"""pFedMe: local training along the gradient of a Moreau envelope.

    theta <- theta - eta_p (grad f(theta; batch) + lam (theta - w_k)),   K times from theta = w_k
    w_k   <- w_k - eta lam (w_k - theta)

(Dinh, Tran & Nguyen, "Personalized federated learning with Moreau envelopes", NeurIPS 2020,
algorithm 1.) The server then moves x <- (1 - beta) x + beta mean_k w_k: a uniform mean and
`step(beta)`.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from .. import rows
from ..check import at_least, positive
from ..rows.batch import back, of_batch, pulled
from ..types import Client, Model, PyTree, Transform
from .batches import Passes
from .optimizers import Local, as_local, covered, merge
from .training import descent, first_private, moving, several


def pfedme(
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

    optimizer: what moves w_k, sgd(eta). personal: sgd(eta_p), or another; it starts anew in every
    batch. Private parameters are part of w_k, and move like it. Rows that a batch does not touch
    have theta = w_k, exactly. `loss` is that of w_k before the steps.
    The probe sees w_k. The paper's personal model, argmin f_k(theta) + lam/2 |theta - w|^2 with w
    the received model, is what `proximal(..., mu=lam)` trains: `strategies.personal.pfedme` lets
    the probe see that one, in a pass of its own, and the server's model scores without it.
    Cost: `inner_steps` gradients a batch by its mathematics, on copies of the batch's rows.
    Raises ValueError unless lam is positive, and for inner_steps < 1.
    """
    positive("pfedme", "lam", lam)
    at_least("pfedme", "inner_steps", inner_steps, 1)
    optimizers, inner = several(optimizer), as_local(personal)

    def direction(gradient, params, batch):
        # Of the rows that the batch does not name, theta = w to the bit.
        start = of_batch(params, batch)

        def moved(theta, state, gradients):
            gradients = pulled(gradients, theta, start, lam)
            mine = covered(inner, _given(theta, gradients))
            state, changed = inner.apply(state, mine, _given(gradients, mine), jnp.bool_(True))
            return merge(changed, theta), state

        def again(_, carry):
            theta, state = carry
            return moved(theta, state, gradient(theta, batch)[1])

        value, gradients = gradient(start, batch)
        first = moved(start, inner.init(_given(start, gradients)), gradients)
        theta, _ = jax.lax.fori_loop(1, inner_steps, again, first)
        nothing = jax.tree.map(jnp.zeros_like, gradients)
        away = pulled(nothing, start, theta, lam)
        return value, back(away, start, params)

    update = descent(model, batches, optimizers, passes, probe, lambda start: direction)

    def make(now):
        return pfedme(model, batches, now[:-1], now[-1], lam, inner_steps, passes, probe)

    return Client(first_private(model), update, moving([*optimizers, inner], make))


def _given(tree: PyTree, like: PyTree) -> PyTree:
    """`tree` with None where `like` has none."""
    is_leaf = lambda x: x is None or rows.is_table(x)
    return jax.tree.map(lambda y, x: None if y is None else x, like, tree, is_leaf=is_leaf)
