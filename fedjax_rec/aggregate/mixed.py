"""An aggregator behind a mixer: clients are mixed with one another before a rule sees them.

    v_b = sum_k W[b, k] u_k,   and the rule of v_1, v_2, ...

A mixer makes the uploads that a rule sees more alike: `nnm`, `bucketing`. A mixture touches the
rows that any of its clients touched.

`n` clients, `b` mixtures, `I` rows of a table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import rows
from ..made import part
from ..rows import RowsUpdate
from ..types import Aggregator, PyTree, Upload
from .gram import PRECISE
from .listed import Listed, listed


@part
class Mixer:
    """Which clients are mixed.

    mix(key, updates, there bool[n], client int32[n]) -> float32[b, n]: shares of each
        mixture, which add up to 1, or all 0 for no mixture. updates: leaves [n, ...] as `Listed`
        has them.
    """

    mix: Callable[..., jax.Array]


def mixed(mixer: Mixer, aggregator: Aggregator) -> Aggregator:
    """`aggregator` of the mixtures that `mixer` makes of clients.

    Each mixture weighs 1. Where the aggregator rejects mixtures, a client is rejected with all of
    its own. Mixtures are whole tables: b I D numbers are in memory.

    Args:
        mixer: `nnm` or `bucketing`.
        aggregator: of mixtures; any of this room that needs no more than updates.

    Returns:
        An `Aggregator` that lists uploads, with the state of `aggregator`.

    Example:
        >>> from fedjax_rec import aggregate
        >>> aggregate.mixed(aggregate.nnm(f=2), aggregate.median()).additive
        False
    """

    def finish(key, state, summary: Listed, now):
        of_mixer, of_rule = jax.random.split(key)
        shares = mixer.mix(of_mixer, summary.update, summary.there, summary.client)
        weight = (shares > 0).any(1).astype(jnp.float32)
        mixtures = _mixtures(shares, summary.update)
        ids = jnp.arange(weight.shape[0], dtype=jnp.int32)
        whole = Upload(mixtures, weight, {})
        found = aggregator.reduce(state, whole, replace(now, client=ids))
        state, update, verdicts = aggregator.finish(of_rule, state, found, now)
        if verdicts is None:
            return state, update, None
        taken = ((shares > 0) & (verdicts > 0)[:, None]).any(0)
        return state, update, taken.astype(jnp.float32)

    return Aggregator(aggregator.init, lambda state, *args: listed(*args), finish, False)


def _mixtures(shares: jax.Array, updates: PyTree) -> PyTree:
    """Updates [b, ...] with whole tables."""

    def product(x):
        flat = x.reshape(x.shape[0], x.size // x.shape[0])
        return jnp.matmul(shares, flat, precision=PRECISE).reshape(-1, *x.shape[1:])

    def one(x):
        if not rows.is_table(x):
            return product(x)
        values, live = (x.values, x.live) if x.ids is None else _laid_out(x)
        live = jnp.matmul((shares > 0).astype(jnp.float32), live.astype(jnp.float32)) > 0
        return RowsUpdate(product(values), None, live, None, x.size)

    return rows.map_nodes(one, updates)


def _laid_out(x: RowsUpdate) -> tuple[jax.Array, jax.Array]:
    """(float32[n, I, D], bool[n, I]) of rows with ids."""
    n, ids = x.live.shape[0], jnp.asarray(x.ids)
    client = jnp.arange(n)[:, None]
    values = jnp.zeros((n, x.size, x.values.shape[-1]), x.values.dtype)
    live = jnp.zeros((n, x.size), bool)
    at = client, ids
    return values.at[at].set(x.values, mode="drop"), live.at[at].set(x.live, mode="drop")
