"""Matrix factorization with features of users and items: new ones are more than a random vector.

    score(u, i) = (p_u + c + A^T x_u) . (q_i + B^T y_i)

x_u are the features of the user, y_i of the item (`data.features`), A and B tables with a vector a
column, c what is liked by all: with labels as columns, a user's vector is the sum of its own and of
those of its fields (SVDFeature, Chen et al., JMLR 2012; LightFM, Kula, CBRecSys 2015). A, B and c
begin at zero, where the model is `fedmf`.

p_u and x_u stay with the client; q_i are shared row by row, A, B and c travel whole; y_i are known
to all. What a client changes of A are the rows of its own fields, see `fields`. A user without
training interactions has what its fields have learned of others.

`I` items, `D` width, `Fu` and `Fi` columns of features.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ...check import positive
from ...types import Model
from ..fields import ItemFields, UserFields, item_sizes, user_sizes
from ..objectives import Objective, bce
from ..roles import Private, Rows, from_nnx
from .mf import inner, of_users


class FeatureFactorization(nnx.Module):
    """user_fields, item_fields: None without features."""

    def __init__(self, num_items, members, width, scale, user_fields, item_fields, objective, rngs):
        draw = jax.random.normal
        self.item = Rows(scale * draw(rngs.params(), (num_items, width)))
        self.user = Private(scale * draw(rngs.params(), (members, width)))
        self.centre = nnx.Param(jnp.zeros(width))
        self.user_fields, self.item_fields = user_fields, item_fields
        self.objective = objective

    def users(self, own, about):
        """[..., D] of private vectors [..., D] and features [..., Fu]."""
        vectors = own + self.centre[...]
        return vectors if self.user_fields is None else vectors + self.user_fields.summed(about)

    def items(self, items):
        """[..., D] of items int[...] or all."""
        vectors = self.item[items]
        return vectors if self.item_fields is None else vectors + self.item_fields.summed(items)

    def loss(self, batch, key):
        vectors = self.items(batch["items"])
        own = of_users(self.user, batch, vectors.ndim)
        fields = self.user_fields
        about = None if fields is None else fields.of_batch(batch, vectors.ndim)
        return self.objective(inner(vectors, self.users(own, about)), batch)

    def prepare(self):
        return self.items(slice(None))

    def score(self, items, user, prepared):
        about = None if self.user_fields is None else self.user_fields.of_user(user)
        return prepared[items] @ self.users(self.user[user], about)


def feature_mf(
    num_items: int,
    members: int = 1,
    width: int = 32,
    scale: float = 0.1,
    objective: Objective | None = None,
    user_features: np.ndarray | None = None,
    item_features: np.ndarray | None = None,
) -> Model:
    """FedMF whose vectors are sums over the fields of a user and of an item.

    Args:
        num_items: `I`, the items of the catalogue.
        members: users that one client holds.
        width: D of the vectors.
        scale: standard deviation of the initial vectors.
        objective: `bce()` (default), `squared_error()` or `bpr()`.
        user_features: float[N, members, Fu], of which the model reads how many columns there are;
            `strategies.described` gives them to the clients. A run makes both of `data.features`.
        item_features: y, float[I, Fi].

    Raises:
        ValueError: unless width and scale are positive, and for features of another shape.

    Example:
        >>> about = np.ones((dataset.num_users, 1, 3), np.float32)
        >>> model = models.feature_mf(num_items, width=4, user_features=about)
        >>> strategy = strategies.fedncf(model, data.pointwise(4))
        >>> strategy = strategies.described(strategy, about)
    """
    positive("feature_mf", "width", width)
    positive("feature_mf", "scale", scale)
    of_users = user_sizes("feature_mf", user_features, None)
    of_items = item_sizes("feature_mf", item_features, None, num_items)
    objective = objective or bce()

    def build(rngs):
        users = UserFields(members, of_users, width, 0, rngs) if of_users else None
        items = ItemFields(item_features, of_items, width, 0, rngs) if of_items else None
        return FeatureFactorization(num_items, members, width, scale, users, items, objective, rngs)

    return from_nnx(build)
