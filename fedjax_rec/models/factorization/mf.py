"""Federated matrix factorization: score(u, i) = p_u . q_i (+ b_i).

The user vector p_u stays on the client, the item rows q_i are shared (FCF, Ammad-ud-din et al.
2019; FedMF, Chai et al. 2020). A client that holds several users has a vector for each.
"""

from __future__ import annotations

import jax
from flax import nnx

from ...check import positive
from ...types import Model
from ..objectives import Objective, bce
from ..roles import Private, Rows, from_nnx


class MatrixFactorization(nnx.Module):
    def __init__(self, num_items, members, width, scale, objective, rngs):
        draw = jax.random.normal
        self.item = Rows(scale * draw(rngs.params(), (num_items, width)))
        self.user = Private(scale * draw(rngs.params(), (members, width)))
        self.objective = objective

    def loss(self, batch, key):
        user = of_users(self.user, batch, self.item[batch["items"]].ndim)
        return self.objective(inner(self.item[batch["items"]], user), batch)

    def score(self, items, user):
        return self.item[items] @ self.user[user]


def inner(rows: jax.Array, user: jax.Array) -> jax.Array:
    """Inner products of item rows [..., D] with one user vector [D], or with one for each."""
    return rows @ user if user.ndim == 1 else (rows * user).sum(-1)


def of_users(table, batch: dict, ndim: int) -> jax.Array:
    """The private vector of each example's user, shaped to meet item rows of `ndim` axes.

    A client that is one user has one vector, which needs no gather.
    """
    if "users" not in batch:
        return table[0]
    rows = table[batch["users"]]
    return rows.reshape(rows.shape[:1] + (1,) * (ndim - rows.ndim) + rows.shape[1:])


def fedmf(
    num_items: int,
    members: int = 1,
    width: int = 32,
    scale: float = 0.1,
    objective: Objective | None = None,
) -> Model:
    """Private user vectors [members, width], shared item rows [num_items, width].

    Args:
        num_items: `I`, the items of the catalogue.
        members: users that one client holds.
        width: D of the vectors.
        scale: standard deviation of the initial vectors.
        objective: `bce()` (default), `squared_error()` or `bpr()`.

    Raises:
        ValueError: unless width and scale are positive.

    Example:
        >>> model = models.fedmf(num_items, width=16)
        >>> strategy = strategies.fedmf(model, data.pointwise(4))
    """
    positive("fedmf", "width", width)
    positive("fedmf", "scale", scale)
    objective = objective or bce()
    return from_nnx(
        lambda rngs: MatrixFactorization(num_items, members, width, scale, objective, rngs)
    )
