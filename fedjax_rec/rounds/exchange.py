"""Who sends its model to whom, where there is no server, or where it only passes models on.

- `derangement`  every client gets another one's model, at random (FedSwap, Chiu et al., IEEE IoT
                 Journal 2020)
- `cycle`        everyone gets the model of the client before (cyclic weight transfer, Chang et al.,
                 JAMIA 2018)
- `pairs`        two and two swap, at random
- `gossip`       M_k <- sum_j W[k, j] M_j over a graph (D-PSGD, Lian et al., NeurIPS 2017)
- `average`      M_k <- sum_j n_j M_j / sum_j n_j
- `periodic`     one of several, each in its own rounds

Models are a stack, leaves [N, ...]. Clients of weight 0 are not there: they keep their model to the
bit, send nothing and get nothing. `N` clients, `d` models that a client mixes.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .. import trees
from ..check import at_least
from ..made import part
from ..types import PyTree
from .graphs import Graph


@part
class Exchange:
    """mix(key, round, weight float[N], models) -> (models, sent uint32[N], got uint32[N]), the
    numbers of models that each client sent and got."""

    mix: Callable[..., tuple[PyTree, jax.Array, jax.Array]]


def derangement() -> Exchange:
    """Uniform among the permutations of those who are there that leave nobody the own model.

    Example:
        >>> swap = strategies.derangement()
        >>> strategy = strategies.model_swapping(model, data.pointwise(4), swap=swap)
    """

    def source(key, weight):
        there, itself = weight > 0, jnp.arange(weight.size)
        ordered = jnp.argsort(~there, stable=True)

        def draw(state):
            key, now = jax.random.split(state[0])
            return key, itself.at[ordered].set(_order(now, there))

        # One permutation in e leaves nobody its own; of one client alone none does.
        again = lambda state: (there & (state[1] == itself)).any() & (there.sum() > 1)
        return jax.lax.while_loop(again, draw, (key, itself))[1]

    return _moving(source)


def cycle() -> Exchange:
    """The models go round by client id, so that in C rounds each has been with everybody.

    Example:
        >>> strategy = strategies.model_swapping(model, data.pointwise(4), swap=strategies.cycle())
    """

    def source(key, weight):
        there, place = weight > 0, jnp.arange(weight.size)
        order, count = jnp.argsort(~there, stable=True), there.sum()
        before = jnp.where(place == 0, count - 1, place - 1)
        before = jnp.where(place < count, before, place)
        return place.at[order].set(order[before])

    return _moving(source)


def pairs() -> Exchange:
    """A uniform matching; of an odd number one client keeps its model.

    Example:
        >>> strategy = strategies.gossip_sgd(model, data.pointwise(4), exchange=strategies.pairs())
    """

    def source(key, weight):
        there = weight > 0
        order, place, count = _order(key, there), jnp.arange(there.size), there.sum()
        partner = jnp.where(jnp.maximum(place, place ^ 1) < count, place ^ 1, place)
        return place.at[order].set(order[partner])

    return _moving(source)


def gossip(graph: Graph) -> Exchange:
    """M_k <- sum_j W[k, j] M_j: every client mixes the models of its neighbours.

    An edge to somebody who is not there has no weight; what it had, the model itself gets, or all
    who are there where everybody hears everybody (`Graph.even`). Of a
    symmetric W with rows that sum to 1 the mean of the models stays as it is, and their distance
    from it falls by the second largest |eigenvalue| of W a round. Costs N d models.

    Args:
        graph: where W comes from, such as `ring()`.

    Example:
        >>> exchange = strategies.gossip(strategies.ring())
    """

    def mix(key, round, weight, models):
        ids, shares = _neighbours(graph.mixing(weight.shape[0]))
        there = weight > 0
        on = there[:, None] & there[ids] & (ids != jnp.arange(there.size)[:, None])
        if graph.even:
            shares = jnp.full(ids.shape, 1.0 / jnp.maximum(there.sum(), 1))
        shares = jnp.where(on, shares, 0.0)
        own = 1.0 - shares.sum(1)

        def one(x):
            mixed = trees.leading(own, x) * x
            for j in range(ids.shape[1]):
                mixed = mixed + trees.leading(shares[:, j], x) * x[ids[:, j]]
            return jnp.where(trees.leading(there, x), mixed, x).astype(x.dtype)

        used = on & (shares > 0)
        sent = jnp.zeros(there.size, jnp.uint32).at[ids].add(used.astype(jnp.uint32))
        return jax.tree.map(one, models), sent, used.sum(1, dtype=jnp.uint32)

    return Exchange(mix)


def average() -> Exchange:
    """Everybody gets the mean by examples of the models of those who are there.

    Example:
        >>> mean = strategies.average()
        >>> strategy = strategies.gossip_sgd(model, data.pointwise(4), exchange=mean)
    """

    def mix(key, round, weight, models):
        there = weight > 0
        share = weight / jnp.maximum(weight.sum(), 1.0)
        mean = trees.weighted_sum(share, models)
        one = lambda x, m: jnp.where(trees.leading(there, x), m, x).astype(x.dtype)
        after = jax.tree.map(one, models, mean)
        once = there.astype(jnp.uint32)
        return after, once, once

    return Exchange(mix)


def periodic(exchanges: list[Exchange], every: list[int]) -> Exchange:
    """After round t = 1, 2, ... the first of `exchanges` whose period divides t, or none.

    `periodic([average(), derangement()], [10, 1])` averages every ten rounds and swaps otherwise.

    Args:
        exchanges: in the order in which they are asked.
        every: the period of each, in rounds.

    Raises:
        ValueError: where there are not as many periods as exchanges, and for a period below 1.

    Example:
        >>> parts = [strategies.average(), strategies.derangement()]
        >>> exchange = strategies.periodic(parts, every=[10, 1])
    """
    if len(exchanges) != len(every) or not every:
        raise ValueError(
            f"periodic(every={every}) has {len(every)} periods for {len(exchanges)} exchanges; "
            "give one each."
        )
    for period in every:
        at_least("periodic", "every", period, 1)

    def mix(key, round, weight, models):
        nothing = jnp.zeros(weight.shape, jnp.uint32)
        branches = [lambda: (models, nothing, nothing)]
        branches += [lambda e=e: e.mix(key, round, weight, models) for e in exchanges]
        due = jnp.stack([(round + 1) % period == 0 for period in every])
        return jax.lax.switch(jnp.where(due.any(), 1 + jnp.argmax(due), 0), branches)

    return Exchange(mix)


def _moving(source: Callable) -> Exchange:
    """An exchange in which client k gets the whole model of source(key, weight)[k]."""

    def mix(key, round, weight, models):
        by = source(key, weight)
        moved = by != jnp.arange(by.size)
        sent = jnp.zeros(by.size, jnp.uint32).at[by].add(moved.astype(jnp.uint32))
        after = jax.tree.map(lambda x: x[by], models)
        return after, sent, moved.astype(jnp.uint32)

    return Exchange(mix)


def _order(key: jax.Array, there: jax.Array) -> jax.Array:
    """int[N]: those who are there in random order, then the others."""
    return jnp.argsort(jnp.where(there, jax.random.uniform(key, there.shape), 2.0))


def _neighbours(mixing: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """(ids int32[N, d], weights float32[N, d]): what W has off its diagonal, d the most neighbours
    of any client; the client itself, at weight 0, pads."""
    off = mixing * (1 - np.eye(len(mixing)))
    degree = max(1, int((off != 0).sum(1).max()))
    ids = np.repeat(np.arange(len(off))[:, None], degree, 1)
    weights = np.zeros(ids.shape)
    for k, row in enumerate(off):
        near = np.flatnonzero(row)
        ids[k, : len(near)], weights[k, : len(near)] = near, row[near]
    return jnp.asarray(ids, jnp.int32), jnp.asarray(weights, jnp.float32)
