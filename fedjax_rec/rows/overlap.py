"""Updates of one table laid upon one another: the values of one at the rows of the other."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from . import RowsUpdate


def values_at(update: RowsUpdate, like: RowsUpdate) -> jax.Array:
    """[L, D]: the values of `update` at the rows of `like`, zero where it has none.

    Of updates without origin and factor; ids sorted, each live at its first place.
    """
    if update.ids is like.ids:
        return update.values
    if update.ids is None:
        return update.values.at[like.ids].get(mode="clip")
    if like.ids is None:
        zeros = jnp.zeros((like.size, *update.values.shape[1:]), update.values.dtype)
        ids = jnp.where(update.live, update.ids, update.size)
        return zeros.at[ids].set(update.values, mode="drop")
    if not update.values.shape[0]:
        return jnp.zeros((like.ids.shape[0], *update.values.shape[1:]), update.values.dtype)
    slot = jnp.searchsorted(update.ids, like.ids, method="scan_unrolled")
    slot = jnp.minimum(slot, update.ids.shape[0] - 1)
    hit = (update.ids[slot] == like.ids) & update.live[slot] & like.live
    return jnp.where(hit[:, None], update.values[slot], 0)
