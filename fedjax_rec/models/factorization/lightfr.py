"""The model of LightFR: matrix factorization in bits (Zhang et al., "LightFR: lightweight federated
recommendation with privacy-preserving matrix factorization", TOIS 2023).

    score(u, i) = b_u . d_i / f,   b_u, d_i in {-1, 1}^f
    loss        = (2 y - 1 - score)^2,   y in [0, 1]

A score is one minus twice the share of bits in which two codes differ.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from ...check import positive
from ...types import Model
from ..objectives import masked_mean
from ..roles import Private, Rows, from_nnx
from .mf import inner, of_users


class Codes(nnx.Module):
    def __init__(self, num_items, members, width, rngs):
        drawn = lambda n: jax.random.rademacher(rngs.params(), (n, width), jnp.float32)
        self.item = Rows(drawn(num_items))
        self.user = Private(drawn(members))
        self.width = width

    def loss(self, batch, key):
        item, labels = self.item[batch["items"]], batch["labels"]
        if item.ndim != 2:
            raise ValueError(
                "lightfr() got several items an example; train it on data.pointwise()."
            )
        user = of_users(self.user, batch, item.ndim)
        apart = 2 * labels - 1 - inner(item, user) / self.width
        return masked_mean(apart**2, batch["mask"])

    def score(self, items, user):
        return self.item[items] @ self.user[user] / self.width


def lightfr(num_items: int, members: int = 1, width: int = 64) -> Model:
    """Private user codes [members, width], shared item codes [num_items, width], of -1 and 1.

    There are `width` + 1 different scores, so that many items of a catalogue tie. A step of
    gradients would leave no codes; `strategies.lightfr` sets one bit after another.

    Args:
        num_items: `I`, the items of the catalogue.
        members: users that one client holds.
        width: f, bits of a code.

    Raises:
        ValueError: for a width that is not positive; in the round, for pairs of items.

    Example:
        >>> model = models.lightfr(num_items, width=32)
        >>> strategy = strategies.lightfr(model, data.pointwise(4))
    """
    positive("lightfr", "width", width)
    return from_nnx(lambda rngs: Codes(num_items, members, width, rngs))
