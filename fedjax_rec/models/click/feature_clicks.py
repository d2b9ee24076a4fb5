"""Click models of a user and an item with their fields, as recommenders: they rank a catalogue.

    score(u, i) = z(p_u, v_1, ..., v_F, q_i, w_1, ..., w_G)

v_f and w_g are the vectors of the fields of user and item (`fields`), p_u and q_i vectors of their
own, and z the logit of a click model that multiplies vectors with one another:

- `feature_deepfm`   b + the vectors' first entries + all pairs' inner products + a deep network on
                     all of them, as in `deepfm` (Guo et al., IJCAI 2017)
- `feature_dcn`      crosses of all of them beside a deep network, as in `dcn` (DCNv2, Wang et al.,
                     WWW 2021)

`deepfm` and `dcn` read labelled examples of id fields instead, of which nobody is the user.

Where a side has fields its own vectors begin at zero: who trained nothing is what its fields say.
p_u and the features of u stay with the client. q_i are shared row by row; the vectors of fields and
the layers travel whole. What that tells of a user is said in `fields`; the first deep layer says
more of the same kind, since its gradient is a product with all the vectors, p_u among them.

`I` items, `D` width, `F` and `G` fields, `Fu` and `Fi` their columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ...check import at_least, positive
from ...types import Model
from ..factorization.mf import of_users
from ..fields import ItemFields, UserFields, item_sizes, user_sizes
from ..objectives import Objective, bce
from ..roles import Private, Rows, from_nnx
from .dcn import CrossAndDeep
from .deepfm import FactorsAndDeep


class FeatureClicks(nnx.Module):
    """user: [members, D]; item: [I, D]; logit(e float[n, F, D], x float[n, 0]) -> float[n]. The
    fields of a side are None without features."""

    def __init__(self, user, item, user_fields, item_fields, logit, objective):
        self.user, self.item = Private(user), Rows(item)
        self.user_fields, self.item_fields = user_fields, item_fields
        self.logit, self.objective = logit, objective

    def users(self, own, about):
        """[..., 1 + F, D] of private vectors [..., D] and features [..., Fu]."""
        fields = self.user_fields
        return _beside(own, None if fields is None else fields.each(about))

    def items(self, items):
        """[..., 1 + G, D] of items int[...] or all."""
        fields = self.item_fields
        return _beside(self.item[items], None if fields is None else fields.each(items))

    def of(self, users, items):
        """[...] of users [..., 1 + F, D], which broadcast, and items [..., 1 + G, D]."""
        users = jnp.broadcast_to(users, (*items.shape[:-2], *users.shape[-2:]))
        e = jnp.concatenate([users, items], -2)
        flat = e.reshape(-1, *e.shape[-2:])
        return self.logit(flat, jnp.zeros((len(flat), 0), e.dtype)).reshape(e.shape[:-2])

    def loss(self, batch, key):
        items, fields = self.items(batch["items"]), self.user_fields
        ndim = items.ndim - 1
        about = None if fields is None else fields.of_batch(batch, ndim)
        users = self.users(of_users(self.user, batch, ndim), about)
        return self.objective(self.of(users, items), batch)

    def prepare(self):
        return self.items(slice(None))

    def score(self, items, user, prepared):
        about = None if self.user_fields is None else self.user_fields.of_user(user)
        return self.of(self.users(self.user[user], about), prepared[items])


def _beside(own, vectors):
    own = own[..., None, :]
    return own if vectors is None else jnp.concatenate([own, vectors], -2)


def feature_deepfm(
    num_items: int,
    members: int = 1,
    width: int = 16,
    deep: Sequence[int] = (64,),
    scale: float = 0.1,
    objective: Objective | None = None,
    user_features: np.ndarray | None = None,
    item_features: np.ndarray | None = None,
    user_field_sizes: Sequence[int] | None = None,
    item_field_sizes: Sequence[int] | None = None,
) -> Model:
    """DeepFM over a user, an item and their fields.

    Arguments that are not named here are those of `two_tower`.

    Args:
        width: of a vector; rows are one wider, by the entry of first order.
        deep: widths of hidden layers.

    Raises:
        ValueError: as `two_tower`.

    Example:
        >>> genres = np.eye(num_items, 5, dtype=np.float32)
        >>> model = models.feature_deepfm(num_items, width=4, deep=(8,), item_features=genres)
        >>> strategy = strategies.fedncf(model, data.pointwise(4))
    """
    logit = lambda count, rngs: FactorsAndDeep(0, count, width, deep, rngs)
    given = user_features, item_features, user_field_sizes, item_field_sizes
    sizes = {"width": width, "deep": min(deep, default=1)}
    return _model(
        "feature_deepfm", num_items, members, width + 1, sizes, scale, objective, given, logit
    )


def feature_dcn(
    num_items: int,
    members: int = 1,
    width: int = 16,
    layers: int = 2,
    rank: int | None = None,
    deep: Sequence[int] = (64,),
    scale: float = 0.1,
    objective: Objective | None = None,
    user_features: np.ndarray | None = None,
    item_features: np.ndarray | None = None,
    user_field_sizes: Sequence[int] | None = None,
    item_field_sizes: Sequence[int] | None = None,
) -> Model:
    """DCNv2 over a user, an item and their fields.

    Arguments that are not named here are those of `feature_deepfm`.

    Args:
        width: of a vector.
        layers: crosses.
        rank: of their matrices, None for full ones.

    Raises:
        ValueError: as `feature_deepfm`, and for layers or rank below 1.

    Example:
        >>> genres = np.eye(num_items, 5, dtype=np.float32)
        >>> model = models.feature_dcn(num_items, width=4, deep=(8,), item_features=genres)
        >>> strategy = strategies.fedncf(model, data.pointwise(4))
    """
    logit = lambda count, rngs: CrossAndDeep(count * width, layers, rank, deep, rngs)
    given = user_features, item_features, user_field_sizes, item_field_sizes
    sizes = {"width": width, "layers": layers, "deep": min(deep, default=1)}
    sizes |= {} if rank is None else {"rank": rank}
    return _model("feature_dcn", num_items, members, width, sizes, scale, objective, given, logit)


def _model(
    where: str,
    num_items: int,
    members: int,
    width: int,
    sizes: dict[str, int],
    scale: float,
    objective: Objective | None,
    given: tuple,
    logit: Callable[..., nnx.Module],
) -> Model:
    """The model of `logit(number of vectors, rngs)` on vectors of `width`."""
    for name, value in sizes.items():
        at_least(where, name, value, 1)
    positive(where, "scale", scale)
    user_features, item_features, of_users, of_items = given
    of_user = user_sizes(where, user_features, of_users)
    of_item = item_sizes(where, item_features, of_items, num_items)
    objective = objective or bce()

    def build(rngs):
        users = UserFields(members, of_user, width, scale, rngs) if of_user else None
        items = ItemFields(item_features, of_item, width, scale, rngs) if of_item else None
        own = lambda count, fields: (
            scale * jax.random.normal(rngs.params(), (count, width)) * (fields is None)
        )
        made = logit(2 + len(of_user) + len(of_item), rngs)
        return FeatureClicks(
            own(members, users), own(num_items, items), users, items, made, objective
        )

    return from_nnx(build)
