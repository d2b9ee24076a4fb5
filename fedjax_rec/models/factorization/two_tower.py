"""Two towers: one over a user and its fields, one over an item and its fields, and their product.

    score(u, i) = U([p_u ; v_1 ; ... ; v_F]) . Q([q_i ; w_1 ; ... ; w_G])

v_f and w_g are the vectors of the fields of user and item (`fields`), p_u and q_i vectors of their
own. U and Q are multi-layer perceptrons with gelu between the layers, or one linear layer each.
(Covington et al., "Deep neural networks for YouTube recommendations", RecSys 2016; Yi et al.,
"Sampling-bias-corrected neural modeling for large corpus item recommendations", RecSys 2019.)

Where a side has fields its own vectors begin at zero: who trained nothing, a new item or a new
user, is what its fields say. Without fields they are drawn, and the model is FedMF under layers.

p_u and the features of u stay with the client. q_i are shared row by row; the vectors of fields and
the layers of both towers travel whole. What that tells of a user is said in `fields`; the first
layer of U says more of the same kind, since its gradient is a product with [p_u ; v_1 ; ... ; v_F].

`I` items, `D` width, `F` and `G` fields, `Fu` and `Fi` their columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ...check import positive
from ...types import Model
from ..fields import ItemFields, UserFields, item_sizes, user_sizes
from ..objectives import Objective, bce
from ..roles import Private, Rows, from_nnx
from ..text.text_tower import Projector
from .mf import inner, of_users


class TwoTower(nnx.Module):
    """user: [members, D]; item: [I, D]; the fields of a side are None without features."""

    def __init__(
        self, num_items, members, width, layers, scale, user_fields, item_fields, objective, rngs
    ):
        self.item = Rows(_own(rngs, num_items, width, scale, item_fields))
        self.user = Private(_own(rngs, members, width, scale, user_fields))
        self.user_fields, self.item_fields = user_fields, item_fields
        self.user_tower = _tower(rngs, user_fields, layers, width)
        self.item_tower = _tower(rngs, item_fields, layers, width)
        self.objective = objective

    def users(self, own, about):
        """[..., D] of private vectors [..., D] and features [..., Fu]."""
        fields = self.user_fields
        return self.user_tower(_joined(own, None if fields is None else fields.each(about)))

    def items(self, items):
        """[..., D] of items int[...] or all."""
        fields = self.item_fields
        vectors = None if fields is None else fields.each(items)
        return self.item_tower(_joined(self.item[items], vectors))

    def loss(self, batch, key):
        vectors, fields = self.items(batch["items"]), self.user_fields
        about = None if fields is None else fields.of_batch(batch, vectors.ndim)
        user = self.users(of_users(self.user, batch, vectors.ndim), about)
        return self.objective(inner(vectors, user), batch)

    def prepare(self):
        return self.items(slice(None))

    def score(self, items, user, prepared):
        about = None if self.user_fields is None else self.user_fields.of_user(user)
        return prepared[items] @ self.users(self.user[user], about)


def _own(rngs, count, width, scale, fields):
    drawn = scale * jax.random.normal(rngs.params(), (count, width))
    return drawn if fields is None else jnp.zeros_like(drawn)


def _tower(rngs, fields, layers, width):
    inputs = width * (1 if fields is None else 1 + len(fields.sizes))
    return Projector(rngs, inputs, layers, width, 1.0)


def _joined(own, vectors):
    """[..., (1 + F) D] of [..., D] and [..., F, D]."""
    if vectors is None:
        return own
    return jnp.concatenate([own, vectors.reshape(*own.shape[:-1], -1)], -1)


def two_tower(
    num_items: int,
    members: int = 1,
    width: int = 32,
    layers: Sequence[int] = (),
    scale: float = 0.1,
    objective: Objective | None = None,
    user_features: np.ndarray | None = None,
    item_features: np.ndarray | None = None,
    user_field_sizes: Sequence[int] | None = None,
    item_field_sizes: Sequence[int] | None = None,
) -> Model:
    """The inner product of a tower on the user's fields and one on the item's.

    Arguments that are not named here are those of `feature_mf`.

    Args:
        layers: widths inside each tower, () for one linear layer.
        scale: standard deviation of the first vectors, of fields or, on a side without, of users or
            items.
        user_field_sizes: F numbers, how many of the Fu columns each field of users has, side by
            side; default one field of all. A run makes them of `data.features`, as those of items.
        item_field_sizes: G numbers, likewise of the Fi columns of items.

    Raises:
        ValueError: unless width, scale and layers are positive, for features of another shape, and
            for sizes that do not add up to their columns.

    Example:
        >>> about = np.ones((dataset.num_users, 1, 3), np.float32)
        >>> model = models.two_tower(num_items, width=4, user_features=about)
        >>> strategy = strategies.fedncf(model, data.pointwise(4))
        >>> strategy = strategies.described(strategy, about)
    """
    positive("two_tower", "width", width)
    positive("two_tower", "scale", scale)
    for size in layers:
        positive("two_tower", "layers", size)
    of_user = user_sizes("two_tower", user_features, user_field_sizes)
    of_item = item_sizes("two_tower", item_features, item_field_sizes, num_items)
    objective = objective or bce()

    def build(rngs):
        users = UserFields(members, of_user, width, scale, rngs) if of_user else None
        items = ItemFields(item_features, of_item, width, scale, rngs) if of_item else None
        return TwoTower(num_items, members, width, layers, scale, users, items, objective, rngs)

    return from_nnx(build)
