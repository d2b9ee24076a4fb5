"""PFedRec: a private affine scorer over shared item rows (Zhang et al., IJCAI 2023).

score_k(i) = w_k . q_i + b_k, where (w_k, b_k) never leaves client k. Scorers start from one common
draw, uniform in +-1/sqrt(D) as `torch.nn.Linear`, and item rows from N(0, 1).
"""

from __future__ import annotations

import jax
from flax import nnx

from ...check import positive
from ...types import Model
from ..objectives import Objective, bce
from ..roles import Private, Rows, from_nnx
from .mf import inner, of_users


class PersonalScorer(nnx.Module):
    def __init__(self, num_items, members, width, objective, rngs):
        bound = width**-0.5
        self.item = Rows(jax.random.normal(rngs.params(), (num_items, width)))

        def uniform(shape):
            one = jax.random.uniform(rngs.common(), shape, minval=-bound, maxval=bound)
            return jax.numpy.broadcast_to(one, (members, *shape))

        self.weight = Private(uniform((width,)))
        self.bias = Private(uniform(()))
        self.objective = objective

    def loss(self, batch, key):
        rows = self.item[batch["items"]]
        weight = of_users(self.weight, batch, rows.ndim)
        bias = of_users(self.bias, batch, rows.ndim - 1)
        return self.objective(inner(rows, weight) + bias, batch)

    def score(self, items, user):
        return self.item[items] @ self.weight[user] + self.bias[user]


def pfedrec(
    num_items: int, members: int = 1, width: int = 32, objective: Objective | None = None
) -> Model:
    """Private scorers [members, width] and [members], shared item rows [num_items, width].

    Arguments that are not named here are those of `fedmf`.

    Raises:
        ValueError: for a width that is not positive.

    Example:
        >>> strategy = strategies.pfedrec(models.pfedrec(num_items), data.pointwise(4))
    """
    positive("pfedrec", "width", width)
    objective = objective or bce()
    return from_nnx(lambda rngs: PersonalScorer(num_items, members, width, objective, rngs))
