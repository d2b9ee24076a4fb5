"""What is known of users and of items as vectors: the one place that turns fields into embeddings.

    v_f = x_f V_f in R^D, a vector a field;     sum_f v_f = x V

x = [x_1 ; ... ; x_F] are the columns of the F fields of a user or an item (`data.features`), V a
shared table with a vector a column: of a label its vector, of several labels their mean, of a
number a multiple of one vector. Models sum the vectors (`feature_mf`), stack a tower on them
(`two_tower`) or multiply them with one another (`feature_deepfm`).

x_i is known to all and lies with the model, frozen. x_u is a private leaf `about` of the client
(`strategies.described` fills it) and is in no message. The change of V that a client sends is
another thing: it is zero in the rows of columns that its user has not, so whoever reads a single
update reads the user's labels off it. Under `privacy.secure_aggregation` the server reads the sum
of many.

`F` fields, `Fu` and `Fi` columns of users and of items, `I` items, `D` width.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from .factorization.mf import of_users
from .roles import Frozen, Private


class UserFields(nnx.Module):
    """about: [members, Fu], which is not trained; table: [Fu, D]."""

    def __init__(self, members, sizes, width, scale, rngs):
        self.about = Private(jnp.zeros((members, sum(sizes))))
        self.table = nnx.Param(_table(sizes, width, scale, rngs))
        self.sizes = sizes

    def of_batch(self, batch, ndim):
        """[..., Fu] of each example's user, beside item rows of `ndim` axes."""
        return jax.lax.stop_gradient(of_users(self.about, batch, ndim))

    def of_user(self, user):
        """[Fu]."""
        return self.about[user]

    def summed(self, about):
        """[..., D] of features [..., Fu]."""
        return about @ self.table[...]

    def each(self, about):
        """[..., F, D] of features [..., Fu]."""
        return _each(about, self.table[...], self.sizes)


class ItemFields(nnx.Module):
    """described: [I, Fi], what is known of all items; table: [Fi, D]."""

    def __init__(self, described, sizes, width, scale, rngs):
        self.described = Frozen(jnp.asarray(described, jnp.float32))
        self.table = nnx.Param(_table(sizes, width, scale, rngs))
        self.sizes = sizes

    def summed(self, items):
        """[..., D] of items int[...] or all."""
        return self.described[items] @ self.table[...]

    def each(self, items):
        """[..., F, D] of items int[...] or all."""
        return _each(self.described[items], self.table[...], self.sizes)


def _table(sizes, width, scale, rngs):
    shape = sum(sizes), width
    return scale * jax.random.normal(rngs.params(), shape) if scale else jnp.zeros(shape)


def _each(x, table, sizes):
    ends = [0, *itertools.accumulate(sizes)]
    pairs = itertools.pairwise(ends)
    return jnp.stack([x[..., a:b] @ table[a:b] for a, b in pairs], -2)


def user_sizes(
    where: str, user_features: np.ndarray | None, sizes: Sequence[int] | None
) -> tuple[int, ...]:
    """Columns of each field of users; () without features, one field of all columns where `sizes`
    is None. Raises ValueError for features of another shape than [N, members, Fu], and for sizes
    that do not add up to Fu."""
    if user_features is None:
        return ()
    if user_features.ndim != 3:
        raise ValueError(
            f"{where}(user_features: {user_features.shape}): give [N, members, Fu], see "
            "data.features."
        )
    return _checked(where, "user_field_sizes", user_features.shape[2], sizes)


def item_sizes(
    where: str,
    item_features: np.ndarray | None,
    sizes: Sequence[int] | None,
    num_items: int,
) -> tuple[int, ...]:
    """Columns of each field of items, as `user_sizes`. Raises ValueError for features of another
    shape than [I, Fi], and for sizes that do not add up to Fi."""
    if item_features is None:
        return ()
    if item_features.ndim != 2 or item_features.shape[0] != num_items:
        raise ValueError(
            f"{where}(item_features: {item_features.shape}): give [{num_items}, Fi], a row an item."
        )
    return _checked(where, "item_field_sizes", item_features.shape[1], sizes)


def _checked(where: str, name: str, columns: int, sizes: Sequence[int] | None) -> tuple[int, ...]:
    sizes = (columns,) if sizes is None else tuple(sizes)
    if sum(sizes) != columns or min(sizes) < 1:
        raise ValueError(
            f"{where}({name}={list(sizes)}) of {columns} columns; give how many each field has, as "
            "data.features says them."
        )
    return sizes
