"""Means of adapters of which the product counts, not the factors.

- `products()`  beside the mean, of each pair  M = sum_k p_k dA_k dB_k,  p_k = n_k / sum_k n_k
- `products(ranks)`   M for the components between two ranks, each by itself
- `holders()`   the mean alone, and who holds which component
- `by_norm()`   pairs weighted by |A_k B_k|_F, the rest by examples (HetLoRA, Cho et al., EMNLP
                2024)

With A and B as the round began, sum_k p_k A_k B_k = A B + A mean(dB) + mean(dA) B + M: a sum over
clients of what they upload, which adds up over chunks, and dense, so that it takes no room for the
number of clients. The average of factors leaves out M - mean(dA) mean(dB). The servers of
`adapters.merging` make of it what their rule says.

Clients of rank r_k below that of the pair say so in `aux["rank"]`, see `adapters.of_rank`: their
components are the first r_k, and the others are zero. `held` [r] is the weight of those that have
each component.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, replace
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp

from ... import factors, trees
from ...aggregate.mean import mean
from ...types import Aggregator, Array, Upload, record


@record
class Products:
    """What an aggregated update says at the kernel of a pair.

    product: [..., in, out], sum_k p_k dA_k dB_k, or None; of `products(ranks)` [H, ..., in, out],
    of the part of the components that begins at first[h]. held: float[r], the share of the clients,
    by weight, that have each component; 0 in all where nobody took part. key: of the round.
    """

    product: Any
    held: Array
    key: Any = None
    first: tuple[int, ...] = field(default=(), metadata={"static": True})


def products(ranks: Sequence[int] | None = None) -> Aggregator:
    """The mean by examples, and at the kernel of each pair its `Products`.

    ranks: that clients have, for the products of each part of the components by itself.
    """

    def of_parts(a, b):
        if ranks is None:
            return _sum_of_products(a, b), ()
        rank = a.shape[-1]
        first = sorted({0, *(r for r in ranks if r < rank)})
        parts = [slice(*ends) for ends in pairwise([*first, rank])]
        return jnp.stack([_sum_of_products(a[..., p], b[..., p, :]) for p in parts]), tuple(first)

    def of_layer(uploads: Upload, layer):
        a = layer[factors.A] * trees.leading(uploads.weight, layer[factors.A])
        return of_parts(a, layer[factors.B])

    return _beside_mean(of_layer)


def holders() -> Aggregator:
    """The mean by examples, and at the kernel of each pair its `Products` without the product."""
    return _beside_mean(lambda uploads, layer: (None, ()))


def _sum_of_products(a: jax.Array, b: jax.Array) -> jax.Array:
    """[..., in, out] of [k, ..., in, r] and [k, ..., r, out]."""
    return jnp.einsum("k...ir,k...ro->...io", a, b, precision="highest")


def _beside_mean(of_layer) -> Aggregator:
    """of_layer(uploads, layer) -> (product, first) of `Products`."""

    def reduce(state, uploads: Upload, now):
        def one(summed, layer):
            there = _has_components(uploads, layer[factors.A].shape[-1])
            product, first = of_layer(uploads, layer)
            said = Products(product, uploads.weight @ there, first=first)
            return factors.with_product(summed, said)

        summary = mean().reduce(state, uploads, now)
        return {**summary, "update": factors.map_pairs(one, summary["update"], uploads.update)}

    return Aggregator(lambda shared: (), reduce, _finish)


def by_norm() -> Aggregator:
    """Factors averaged with weights |A_k B_k|_F / sum_j |A_j B_j|_F, over all layers of a client;
    other leaves by examples. At the kernel of each pair is its `Products`, without the product.

    Reads `aux["norm"]`. Raises ValueError where there are adapters and no norm.
    """

    def reduce(state, uploads: Upload, now):
        by_examples = mean().reduce(state, uploads, now)
        if not factors.pairs(uploads.update):
            return {**by_examples, "norm": jnp.float32(0)}
        if "norm" not in uploads.aux:
            raise ValueError(
                "by_norm() needs aux['norm'] of each client; wrap it in adapters.of_rank()."
            )
        norm = jnp.where(uploads.weight > 0, uploads.aux["norm"], 0.0)
        by_norms = mean().reduce(state, replace(uploads, weight=norm), now)

        def one(summed, other, layer):
            held = norm @ _has_components(uploads, layer[factors.A].shape[-1])
            pair = {name: other[name] for name in (factors.A, factors.B)}
            return factors.with_product({**summed, **pair}, Products(None, held))

        update = factors.map_pairs(one, by_examples["update"], by_norms["update"], uploads.update)
        return {**by_examples, "update": update, "norm": norm.sum()}

    def finish(key, state, summary, now):
        # Pairs are sums by norm: put them on the scale of the others first.
        weight, norm = summary["weight"], summary["norm"]
        times = jnp.where(norm > 0, weight / jnp.where(norm > 0, norm, 1.0), 0.0)

        def one(layer):
            mine = {name: layer[name] for name in (factors.A, factors.B, factors.KERNEL)}
            return {**layer, **jax.tree.map(lambda x: x * times, mine)}

        update = factors.map_pairs(one, summary["update"])
        return _finish(key, state, {"update": update, "weight": weight}, now)

    return Aggregator(lambda shared: (), reduce, finish)


def _finish(key, state, summary, now):
    state, update, verdicts = mean().finish(key, state, summary, now)

    def one(layer):
        said: Products = layer[factors.KERNEL].value
        return factors.with_product(layer, replace(said, key=key))

    return state, factors.map_pairs(one, update), verdicts


def _has_components(uploads: Upload, rank: int) -> jax.Array:
    """float32[c, r]: 1 where a client has a component."""
    clients = uploads.weight.shape[0]
    if "rank" not in uploads.aux:
        return jnp.ones((clients, rank))
    return (jnp.arange(rank) < uploads.aux["rank"][:, None]).astype(jnp.float32)
