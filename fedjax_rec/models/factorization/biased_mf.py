"""Federated matrix factorization with biases, for labels such as likes: r(u, i) in place of order.

    z = m + b_u + c_i + p_u . q_i

(Koren, Bell and Volinsky, "Matrix factorization techniques for recommender systems", 2009; here a
logit by default.) What a user is like on the whole, b_u, and p_u stay on the client, c_i and q_i
are a shared row of the item, and m is one number. A bias is the last number of its vector, so that
whoever is given vectors (`models.collm`) has them too.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from ...check import positive
from ...types import Model
from ..objectives import Objective, bce
from ..roles import Private, Rows, from_nnx
from .mf import inner, of_users


class BiasedMatrixFactorization(nnx.Module):
    def __init__(self, num_items, members, width, scale, objective, rngs):
        unbiased = jnp.append(jnp.full(width, scale), 0.0)
        draw = lambda count: unbiased * jax.random.normal(rngs.params(), (count, width + 1))
        self.item, self.user = Rows(draw(num_items)), Private(draw(members))
        self.mean = nnx.Param(jnp.zeros(()))
        self.objective = objective

    def loss(self, batch, key):
        return self.objective(self.predict(batch), batch)

    def predict(self, batch):
        items = self.item[batch["items"]]
        return self.logit(items, of_users(self.user, batch, items.ndim))

    def score(self, items, user):
        return self.logit(self.item[items], self.user[user])

    def logit(self, items, user):
        biases = self.mean[...] + user[..., -1] + items[..., -1]
        return biases + inner(items[..., :-1], user[..., :-1])


def biased_mf(
    num_items: int,
    members: int = 1,
    width: int = 32,
    scale: float = 0.1,
    objective: Objective | None = None,
) -> Model:
    """`fedmf` with a bias of each user and item, which also predicts labelled examples.

    Arguments that are not named here are those of `fedmf`.

    Args:
        width: D of the vectors, which have one number more, the bias.
        objective: `bce()` (default) or `squared_error()`.

    Raises:
        ValueError: unless width and scale are positive.

    Example:
        >>> pairs = data.liked_pairs(films)
        >>> model = models.biased_mf(films.num_items, width=8)
        >>> strategy = strategies.fedmf(model, data.examples())
    """
    positive("biased_mf", "width", width)
    positive("biased_mf", "scale", scale)
    objective = objective or bce()
    return from_nnx(
        lambda rngs: BiasedMatrixFactorization(num_items, members, width, scale, objective, rngs)
    )
