"""Local training in a random row space from a seed: only B of Q = Q0 + B A is trained.

    B <- B - eta dl/dB,   dl/dB = G A^T,   so   Q <- Q - eta G A^T A

A [r, D] is known to everybody in a round (`bases.random_rows`), so that B says all of the change:
`compress.seeded_low_rank` with the same rank and seed sends it without loss, r numbers a row.
CoLR (Nguyen et al., WWW 2024).
"""

from __future__ import annotations

from dataclasses import replace

import jax
import optax

from .. import check
from ..bases import product, random_rows
from ..check import at_least
from ..rows import RowsGradient, is_table, map_nodes_with_path, nodes_with_path
from ..types import PyTree
from .optimizers import Local, as_local, path_of


def subspace(optimizer: Local | optax.GradientTransformation, rank: int, seed: int = 0) -> Local:
    """Steps on gradients that are multiplied from the right by A^T A, new in every round.

    So it does with the tables and matrices of `shared` that are wider than `rank`; the other leaves
    are trained as ever. For SGD, with or without momentum, the change lies in the row space of A
    and is exactly that of training B. An optimizer that scales each coordinate (Adam) leaves the
    space.

    Args:
        optimizer: what steps on those gradients.
        rank: r, the rows of A.
        seed: of all A; that of the compressor.

    Returns:
        A `Local` with A beside the state of `optimizer`.

    Raises:
        ValueError: for rank < 1, and for no seed of 32 bits.

    Example:
        >>> from fedjax_rec import clients, compress
        >>> optimizer = clients.subspace(clients.sgd(0.5), rank=8, seed=7)
        >>> uplink = compress.seeded_low_rank(rank=8, seed=7)  # the same A
    """
    at_least("subspace", "rank", rank, 1)
    check.seed("subspace", seed)
    inner = as_local(optimizer)

    def spaces(params: PyTree, now) -> dict[str, jax.Array]:
        """Path of a leaf -> A, for the leaves that are trained in it."""
        found = {}
        for path, leaf in nodes_with_path(params):
            name, x = path_of(path), leaf.values if is_table(leaf) else leaf
            if name.split("/")[0] == "shared" and x.ndim > 1 and x.shape[-1] > rank:
                found[name] = random_rows(seed, now.round, x.shape[-1], rank)
        return found

    def apply(state, params, gradients, active, now):
        def one(path, g):
            a = state["spaces"].get(path_of(path))
            if a is None:
                return g
            if isinstance(g, RowsGradient):
                dense = None if g.dense is None else _projected(g.dense, a)
                return replace(g, values=_projected(g.values, a), dense=dense)
            return _projected(g, a)

        within = map_nodes_with_path(one, gradients)
        after, params = inner.apply(state["inner"], params, within, active, now)
        return {**state, "inner": after}, params

    return Local(
        # A is in the state, so that it is made once a round and not once a batch.
        lambda params, now: {"inner": inner.init(params, now), "spaces": spaces(params, now)},
        apply,
        inner.covers,
    )


def _projected(g: jax.Array, a: jax.Array) -> jax.Array:
    return product(product(g, a.T), a)
