"""HiCS: gradients are clipped twice, and of what is left the largest rows are applied.

    c[i] = 1/n sum_k u_k[i] min(1, bound / |u_k[i]|)              of each client's row
    c[i] <- c[i] min(1, a / |c[i]|),   a the mean of |c[i]| over the rows that the round touched
    m <- m + c;   the `share` of all rows with the largest |m[i]| move by m[i], of which 0 is kept

(Yuan et al., "Manipulating federated recommender systems: poisoning with
synthetic users and its countermeasures", SIGIR 2023: hierarchical gradient clipping with sparsified
updating.) The paper names the two levels of clipping and the memory; the sparsified update is that
of SparseFed (Panda et al., AISTATS 2022), and a bound of the second level that follows the round's
mean is this library's reading, since no code is public.

Breakdown point: none; f attackers move a row by f bound / n at most, and by a, in a round that
applies it. Cost: one pass, and one over a memory of the size of the model; summaries add up.
"""

from __future__ import annotations

import jax.numpy as jnp

from .. import rows
from ..check import holds, positive
from ..types import Aggregator, Upload
from .gram import ranks
from .norm_bound import bound_factor, row_norm_bound


def hics(bound: float, share: float = 0.1) -> Aggregator:
    """Rows clipped at each client and again in the sum, of which the largest are applied and the
    others remembered.

    Each client counts once, whatever it weighs; nobody is rejected. Dense leaves are clipped at the
    client and applied whole.

    Args:
        bound: the largest norm of a client's row, and of its dense leaves. Positive.
        share: of the rows of a table that a round moves. 0 < share <= 1.

    Returns:
        An `Aggregator` whose summaries add up, with a memory of the size of the tables.

    Raises:
        ValueError: for a bound that is not positive, and a share outside 0 < share <= 1.

    Example:
        >>> from fedjax_rec import aggregate
        >>> aggregate.hics(bound=0.1, share=0.2).additive
        True
    """
    positive("hics", "bound", bound)
    if not holds(share, lambda x: (x > 0) & (x <= 1)):
        raise ValueError(f"hics(share={share}) moves nothing; use 0 < share <= 1.")
    clipped = row_norm_bound(bound)

    def init(shared):
        return [x.values for x in rows.nodes(rows.zeros_of(shared)) if rows.is_table(x)]

    def reduce(state, uploads: Upload, now):
        return clipped.reduce((), uploads, now)

    def finish(key, state, summary, now):
        _, update, _ = clipped.finish(key, (), summary, now)
        memories, kept = iter(state), []

        def one(x):
            if not rows.is_table(x):
                return x
            fresh, touched = rows.to_dense(x), _touched(x)
            length = jnp.sqrt((fresh**2).sum(-1))
            usual = jnp.where(touched, length, 0).sum() / jnp.maximum(touched.sum(), 1)
            memory = next(memories) + fresh * bound_factor(length, usual)[:, None]
            length = (memory**2).sum(-1)
            chosen = (ranks(-length, length > 0) < jnp.ceil(share * x.size)) & (length > 0)
            chosen &= summary["clients"] > 0
            kept.append(jnp.where(chosen[:, None], 0, memory))
            return rows.RowsUpdate(
                jnp.where(chosen[:, None], memory, 0), None, chosen, None, x.size
            )

        return kept, rows.map_nodes(one, update), None

    return Aggregator(init, reduce, finish)


def _touched(x: rows.RowsUpdate):
    """bool[I]: the rows of a sum that are live."""
    if x.ids is None:
        return x.live
    ids = jnp.where(x.live, x.ids, x.size)
    return jnp.zeros(x.size, bool).at[ids].set(True, mode="drop")
