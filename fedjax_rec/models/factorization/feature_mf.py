"""Matrix factorization with features of users and items: new ones are more than a random vector.

    score(u, i) = (p_u + c + A^T x_u) . (q_i + B^T y_i)

x_u are the features of the user, y_i of the item (`data.features`), A and B tables with a vector a
column, c what is liked by all: with labels as columns, a user's vector is the sum of its own and of
those of its fields (SVDFeature, Chen et al., JMLR 2012; LightFM, Kula, CBRecSys 2015). A, B and c
begin at zero, where the model is `fedmf`.

p_u and x_u stay with the client; q_i are shared row by row, A, B and c travel whole; y_i are known
to all. A user without training interactions has what its fields have learned of others.

`I` items, `D` width, `Fu` and `Fi` columns of features.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ...check import positive
from ...types import Model
from ..objectives import Objective, bce
from ..roles import Frozen, Private, Rows, from_nnx
from .mf import inner, of_users


class FeatureFactorization(nnx.Module):
    """about: x [members, Fu], what the client knows of its users, which is not trained."""

    def __init__(self, num_items, members, columns, described, width, scale, objective, rngs):
        draw = jax.random.normal
        self.item = Rows(scale * draw(rngs.params(), (num_items, width)))
        self.user = Private(scale * draw(rngs.params(), (members, width)))
        self.centre = nnx.Param(jnp.zeros(width))
        self.about = Private(jnp.zeros((members, columns))) if columns else None
        self.user_fields = nnx.Param(jnp.zeros((columns, width))) if columns else None
        self.described = None if described is None else Frozen(jnp.asarray(described))
        size = None if described is None else (described.shape[1], width)
        self.item_fields = None if size is None else nnx.Param(jnp.zeros(size))
        self.objective = objective

    def users(self, own, about):
        """[..., D] of private vectors [..., D] and features [..., Fu]."""
        vectors = own + self.centre[...]
        if about is None or self.user_fields is None:
            return vectors
        return vectors + jax.lax.stop_gradient(about) @ self.user_fields[...]

    def items(self, items):
        """[..., D] of items int[...] or all."""
        if self.described is None or self.item_fields is None:
            return self.item[items]
        return self.item[items] + self.described[items] @ self.item_fields[...]

    def loss(self, batch, key):
        vectors = self.items(batch["items"])
        own = of_users(self.user, batch, vectors.ndim)
        about = None if self.about is None else of_users(self.about, batch, vectors.ndim)
        return self.objective(inner(vectors, self.users(own, about)), batch)

    def prepare(self):
        return self.items(slice(None))

    def score(self, items, user, prepared):
        about = None if self.about is None else self.about[user]
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
    if user_features is not None and user_features.ndim != 3:
        raise ValueError(
            f"feature_mf(user_features: {user_features.shape}): give [N, members, Fu], see "
            "data.features."
        )
    if item_features is not None and item_features.shape[:1] != (num_items,):
        raise ValueError(
            f"feature_mf(item_features: {item_features.shape}): give [{num_items}, Fi], a row an "
            "item."
        )
    columns = 0 if user_features is None else user_features.shape[2]
    objective = objective or bce()
    return from_nnx(
        lambda rngs: FeatureFactorization(
            num_items, members, columns, item_features, width, scale, objective, rngs
        )
    )
