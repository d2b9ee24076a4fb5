"""Clients whose adapters have fewer components than the server's: A_k = A[:, :r_k], B_k = B[:r_k].

Arrays keep the largest rank, so clients of every rank share one `vmap`: the components beyond r_k
are zero, have no gradient and stay zero (HetLoRA, Cho et al., EMNLP 2024; FLoRA, Wang et al.,
NeurIPS 2024; FlexLoRA, Bai et al., NeurIPS 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp

from ... import factors, rows, trees, wire
from ...check import at_least
from ...types import Client, Packet, Upload


def of_rank(client: Client, ranks: Sequence[int] = ()) -> Client:
    """`client`, of which client k has the first ranks[k mod len(ranks)] components of each adapter;
    all of them where `ranks` is empty.

    It downloads these alone, and uploads no change of the others: send what it uploads by
    `by_component`. It sends its `rank` and `norm`, |A_k B_k|_F after the round over all
    layers, beside the update. Its optimizer must leave alone what has no gradient (SGD, Adam).
    Raises ValueError for a rank below 1, and, in the round, for one above that of the model.
    """
    for rank in ranks:
        at_least("of_rank", "ranks", rank, 1)

    def update(key, private, shared, data, now):
        most = factors.rank(shared)
        if not most or max(ranks, default=0) > most:
            raise ValueError(
                f"of_rank(ranks={list(ranks)}): the largest adapter of the model has rank {most}; "
                "give models.lora the largest of the ranks."
            )
        held = jnp.asarray(ranks or [most], jnp.int32)[data.id % max(1, len(ranks))]
        mine = factors.map_pairs(lambda layer: factors.cut(layer, held), shared)
        private, upload = client.update(key, private, mine, data, now)
        norm = jnp.sqrt(sum(map(_squared_norm, factors.pairs(mine), factors.pairs(upload.update))))
        said = {"rank": held.astype(jnp.float32), "norm": norm}
        return private, replace(
            upload, metrics=upload.metrics | said, aux=upload.aux | said,
            down=_down(upload, shared, held),
        )  # fmt: skip

    return replace(client, update=update)


def _squared_norm(layer: dict, change: dict) -> jax.Array:
    a, b = (layer[name] + change[name] for name in (factors.A, factors.B))
    return factors.squared_norm(a, b)


def _down(upload: Upload, shared, held) -> jax.Array:
    """uint32[]: the bytes of the dense leaves, of the touched rows and of the components held."""
    sent = lambda u, x: replace(u, origin=None) if rows.is_table(u) else x
    got = rows.map_nodes(sent, upload.update, trees.trainable(shared))
    live = lambda x: jnp.arange(x.shape[0]) < held
    return wire.nbytes(Packet(factors.as_rows(got, live)))
