"""What clients sent, sent again: as long as it was, in the direction of a new and shorter training.

    u_i = |s_i| f_i / |f_i|,   s_i the row i that the log keeps, f_i the same row of a training now

so that what was learned from who is gone by now does not come back by those who learned from it
(the calibration of FedEraser, Liu et al., IWQoS 2021, which FRU, Yuan et al., WSDM 2023, has of
rows). Rows that were not kept move as they are trained now, and kept ones that the shorter training
does not touch as they did. Leaves that are no tables are one such row each.

FRU sends kept rows alone. Of FedMF that diverges: what is kept are positives, and nothing pulls
their rows back.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import rows
from ..check import at_least
from ..rows import RowsUpdate
from ..types import Stage, Upload
from .log import Log, blank_log, of_round, refuse_more


def replay(rounds: int, rows: int | None = None) -> Stage:
    """Sends what the log of an `update_log` of the same numbers says of the round, calibrated.

    For a strategy that is like the one that was trained, with this stage in the place of that, and
    fewer steps of its clients. Its state is `rolled_back`, and who is forgotten stands in no cohort
    (`simulate.without`). With logs of all rows, all clients and all of their steps it is the
    training that it repeats, up to rounding. A client without a log of a round sends what it made.

    Args:
        rounds: T of the log.
        rows: k of the log.

    Returns:
        A `Stage`, for `stages=[...]`, which keeps the log as it is.

    Raises:
        ValueError: as `update_log`.

    Example:
        >>> from fedjax_rec import unlearn
        >>> stages = [unlearn.replay(rounds=30, rows=64)]
        >>> again = strategies.fedmf(model, data.pointwise(4), stages=stages, steps=1)
    """
    at_least("replay", "rounds", rounds, 1)
    if rows is not None:
        at_least("replay", "rows", rows, 1)

    def send(key, memory: Log, upload: Upload, now):
        refuse_more("replay", upload)
        weight, sent = of_round(memory, now.round)
        known = (weight > 0) & (upload.weight > 0)
        update = _calibrated(upload.update, sent, known)
        return memory, replace(
            upload, update=update, weight=jnp.where(known, weight, upload.weight)
        )

    return Stage(send, lambda update: blank_log(update, rounds, rows))


def _calibrated(fresh, sent, known):
    """`fresh` with what is known of `sent` as long as it was, and those of its rows besides that
    the short training did not touch."""

    def one(f, s):
        if not rows.is_table(f):
            return jnp.where(known, _turned(s, f, None), f)
        kept = s.live & known
        turned = jnp.where(kept[:, None], _turned(s.values, rows.values_at(f, s), -1), 0)
        ids = jnp.arange(f.size, dtype=jnp.int32) if f.ids is None else f.ids
        among = jnp.zeros(f.size + 1, bool).at[jnp.where(kept, s.ids, f.size)].set(True)
        rest = f.live & ~among.at[jnp.minimum(ids, f.size)].get()
        values = jnp.where(rest[:, None], f.values, 0)
        both = lambda a, b: jnp.concatenate([a, b])
        where = both(jnp.where(kept, s.ids, f.size), jnp.where(rest, ids, f.size))
        values = both(turned.astype(f.values.dtype), values)
        return RowsUpdate(values, where, both(kept, rest), None, f.size)

    return rows.map_nodes(one, fresh, sent)


def _turned(long: jax.Array, fresh: jax.Array, axis) -> jax.Array:
    """The length of `long` in the direction of `fresh`, or its own where that has none."""
    norm = lambda x: jnp.sqrt((x.astype(jnp.float32) ** 2).sum(axis, keepdims=axis is not None))
    length = norm(fresh)
    turned = fresh * (norm(long) / jnp.where(length > 0, length, 1.0))
    return jnp.where(length > 0, turned, long).astype(long.dtype)
