"""FedRAP: item tables that add up, one of each client's own and one of all (Li et al., ICLR 2024).

    score_k(i) = w_k . (D_k[i] + C[i]) + b_k
    loss = objective - lambda * mean |D_k[i] - C[i]|^2 + mu * mean |C[i]|_1   on the rows of a batch

Table D_k and scorer (w_k, b_k) never leave client k, C is shared. All start alike on all clients:
tables from N(0, 1), scorers uniform in +-1/sqrt(D) as `torch.nn.Linear`. A mean is over examples
and over the D coordinates of a row.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from ...check import at_least, positive
from ...types import Model
from ..objectives import Objective, bce, masked_mean
from ..roles import Private, PrivateRows, Rows, from_nnx
from .mf import inner, of_users


class AdditiveTables(nnx.Module):
    def __init__(self, num_items, members, width, independence, sparsity, objective, rngs):
        bound = width**-0.5

        def uniform(shape):
            one = jax.random.uniform(rngs.common(), shape, minval=-bound, maxval=bound)
            return jnp.broadcast_to(one, (members, *shape))

        self.item = Rows(jax.random.normal(rngs.params(), (num_items, width)))
        self.own = PrivateRows(jax.random.normal(rngs.common(), (num_items, width)))
        self.weight = Private(uniform((width,)))
        self.bias = Private(uniform(()))
        self.independence, self.sparsity = independence, sparsity
        self.objective = objective

    def loss(self, batch, key):
        common, own = self.item[batch["items"]], self.own[batch["items"]]
        weight = of_users(self.weight, batch, own.ndim)
        bias = of_users(self.bias, batch, own.ndim - 1)
        loss = self.objective(inner(common + own, weight) + bias, batch)
        of_examples = lambda x: x.reshape(x.shape[0], -1).mean(-1)
        # A term of weight zero is left out, since its value may overflow where its weight is none.
        if self.independence:
            apart = masked_mean(of_examples((own - common) ** 2), batch["mask"])
            loss = loss - self.independence * apart
        if self.sparsity:
            loss = loss + self.sparsity * masked_mean(of_examples(jnp.abs(common)), batch["mask"])
        return loss

    def score(self, items, user):
        return (self.item[items] + self.own[items]) @ self.weight[user] + self.bias[user]


def fedrap(
    num_items: int,
    members: int = 1,
    width: int = 32,
    independence: float = 0.0,
    sparsity: float = 0.0,
    objective: Objective | None = None,
) -> Model:
    """Private tables [num_items, width], one a client; private scorers [members, width] and
    [members]; shared item rows [num_items, width].

    A client that holds several users has one table for them. Of N clients the private tables are
    N * num_items * width floats. Arguments that are not named here are those of `fedmf`.

    Args:
        independence: lambda >= 0, keeps D_k and C apart; the loss has no lower bound where it is
            positive.
        sparsity: mu >= 0.

    Raises:
        ValueError: for a width that is not positive and for weights below 0.

    Example:
        >>> strategy = strategies.fedrap(models.fedrap(num_items, sparsity=1e-3), data.pointwise(4))
    """
    positive("fedrap", "width", width)
    at_least("fedrap", "independence", independence, 0)
    at_least("fedrap", "sparsity", sparsity, 0)
    objective = objective or bce()
    return from_nnx(
        lambda rngs: AdditiveTables(
            num_items, members, width, independence, sparsity, objective, rngs
        )
    )
