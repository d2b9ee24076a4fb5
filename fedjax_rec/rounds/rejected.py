"""Clients whose round is not finite: their uploads are taken by nobody, and they are counted.

    sound_k = all that client k sends, what arrives of it, its loss and what it would keep is finite

Whoever is not sound counts as one that was not there: its upload weighs 0, so that no sum looks at
it (`rows.weighted_sum`), and its private state, error memory and control variates stay as they
were, in step with the server's. `RoundInfo.rejected` says who it was. So it is with a client whose
upload is finite and what it keeps for itself is not, such as a personal model that diverged.

`N` clients, `c` clients of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import rows, trees
from ..types import PyTree, Upload

# Of floats below 2^128, so much of each sums up without overflow: to NaN or infinity only where
# one of them is.
SHARE = 2.0**-64


def judged(
    ids: jax.Array, nobody: int, private: PyTree, sent: PyTree, uploads: Upload
) -> tuple[jax.Array, Upload, jax.Array]:
    """(whose state to put back int32[c], uploads, rejected float32[c]) of the clients of a chunk.

    The first are `ids` with padding in place of the rejected. Uploads of padding and of the
    rejected weigh 0; metrics of the rejected are 0, and NaN where they are several numbers.

    Args:
        ids: int32[c], N and above for padding.
        nobody: N.
        private: what the clients would keep, leaves [c, ...].
        sent: their updates as they left them, which a compressor may have made finite.
        uploads: as they arrived.
    """
    return _judged(ids, nobody, (private, sent, uploads.update), uploads)


def judged_by_sum(
    ids: jax.Array, nobody: int, private: PyTree, uploads: Upload, summed: Callable
) -> tuple[jax.Array, Upload, jax.Array, PyTree]:
    """`judged` of updates that are sent as they are and summed as they are, and the summary,
    summed(uploads).

    A sum is finite where all that is in it is, and NaN or infinite where one of them is, or where
    they overflow together. So the updates, which are much to look at, are looked at one by one
    where their sum is not finite.
    """

    def told(looked_at: PyTree):
        keep, found, rejected = _judged(ids, nobody, (private, looked_at), uploads)
        return (keep, found.weight, found.metrics, rejected), summed(found)

    told_by_sum = told(())
    whole = jax.tree.map(lambda x: x[None], told_by_sum[1])
    verdict, summary = jax.lax.cond(
        finite(whole, 1)[0], lambda: told_by_sum, lambda: told(uploads.update)
    )
    keep, weight, metrics, rejected = verdict
    return keep, replace(uploads, weight=weight, metrics=metrics), rejected, summary


def _judged(ids, nobody: int, seen: PyTree, uploads: Upload) -> tuple[jax.Array, Upload, jax.Array]:
    """`judged` by `seen` and by what is told beside the update."""
    told = uploads.metrics.get("loss", ())
    sound = finite((seen, uploads.weight, uploads.aux, told), ids.shape[0])
    real = ids < nobody
    rejected = real & ~sound

    def blank(x):
        nothing = jnp.nan if x.ndim > 1 and jnp.issubdtype(x.dtype, jnp.floating) else 0
        return jnp.where(trees.leading(rejected, x), jnp.asarray(nothing, x.dtype), x)

    weight = jnp.where(real & sound, uploads.weight, 0.0)
    uploads = replace(uploads, weight=weight, metrics=jax.tree.map(blank, uploads.metrics))
    return jnp.where(rejected, nobody, ids), uploads, rejected.astype(jnp.float32)


def finite(tree: PyTree, count: int) -> jax.Array:
    """bool[count]: of which clients all floats are finite, of leaves [count, ...]."""
    sound, seen = jnp.ones(count, bool), set()
    for x in _arrays(tree):
        if id(x) not in seen and x.size and jnp.issubdtype(x.dtype, jnp.floating):
            seen.add(id(x))  # what is sent as it is stands in the tree twice
            sound &= _all_finite(x)
    return sound


def _arrays(tree: PyTree) -> list[jax.Array]:
    """What clients have each their own of: all but the `origin` of updates."""
    own = lambda x: (x.values, x.factor) if isinstance(x, rows.RowsUpdate) else x
    return jax.tree.leaves([own(x) for x in rows.nodes(tree)])


def _all_finite(x: jax.Array) -> jax.Array:
    """bool[c] of float[c, ...]. By products along the last axis, which on a CPU take half of the
    time of `isfinite(x)`."""
    if x.ndim > 1 and x.shape[-1] > 1 and jnp.finfo(x.dtype).bits >= 32:
        x = jnp.matmul(x, jnp.full(x.shape[-1], SHARE, x.dtype), precision="highest")
    return jnp.isfinite(x).reshape(x.shape[0], -1).all(1)
