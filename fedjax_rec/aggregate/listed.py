"""What robust rules see of a round: every upload, bounded, and who is there.

A rule that judges clients, or takes medians, cannot be summed over chunks: uploads are listed, and
`finish` sees all of them, leaves [n, ...]. An upload says what it likes, so three things hold of
what is listed, whoever sent it:

- Whoever weighs nothing is zero everywhere, whatever it holds.
- A row that is not live is zero, and has no id.
- No number is larger than `LARGEST`: squares, and sums of 2^40 squares, are finite then. Nobody
  who means well sends 10^12.

Robust rules count each client once: an attacker states its own weight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import rows, trees
from ..check import is_traced
from ..types import Aggregator, PyTree, Upload, record

LARGEST = 2.0**40


@record
class Listed:
    """Uploads of all clients. update: leaves [n, ...], without origin and factor. there: bool[n].
    client: int32[n], their ids."""

    update: PyTree
    there: jax.Array
    client: jax.Array


def listing(finish: Callable, init: Callable[..., PyTree] = lambda shared: ()) -> Aggregator:
    """The aggregator of finish(key, state, Listed, now) -> (state, update, verdicts)."""
    return Aggregator(init, lambda state, uploads, now: listed(uploads, now), finish, False)


def listed(uploads: Upload, now) -> Listed:
    """The uploads of a chunk."""
    there = uploads.weight > 0

    def bounded(x, there):
        x = jnp.where(trees.leading(there, x), x.astype(jnp.float32), 0)
        return jnp.clip(x, -LARGEST, LARGEST)

    def one(x):
        if not rows.is_table(x):
            return bounded(x, there)
        x = x.delta()
        live = x.live & there[:, None]
        values = jnp.where(live[..., None], bounded(x.values, there), 0)
        ids = None if x.ids is None else jnp.where(live, x.ids, x.size)
        return rows.RowsUpdate(values, ids, live, None, x.size)

    return Listed(rows.map_nodes(one, uploads.update), there, now.client)


def count(there: jax.Array) -> jax.Array:
    """int32[]: how many clients there are."""
    return there.sum(dtype=jnp.int32)


def where_enough(enough: jax.Array, update: PyTree) -> PyTree:
    """`update` [...], or where there are not enough clients nothing, to the bit."""

    def one(x):
        if not rows.is_table(x):
            return jnp.where(enough, x, 0)
        return replace(x, values=jnp.where(enough, x.values, 0), live=x.live & enough)

    return rows.map_nodes(one, update)


def refuse_too_few(where: str, f, there: jax.Array, times: int, more: int) -> None:
    """Raises ValueError where even with no padding there are fewer than `times * f + more`
    clients, as far as shapes tell."""
    clients, least = there.shape[0], more if is_traced(f) else times * f + more
    if clients < least:
        most = (clients - more) // times
        lower = f"use f <= {most}, or {least}" if most >= 0 else f"use {least}"
        raise ValueError(
            f"{where}(f={f}) needs {least} clients a round and gets {clients}; {lower} clients a "
            "round or more."
        )
