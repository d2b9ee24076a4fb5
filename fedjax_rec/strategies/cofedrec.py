"""CoFedRec: items in categories, and in each round a group of clients that see one of them alike.

    c       =  K-means of the rows of the mean table, K categories
    s_u     =  sum_{i: c(i) = c*} cos(Q_u[i], Q_v[i])         for a drawn category c* and client v
    group   =  the clients of the largest s_u, up to the elbow of the sorted s
    Q_u     <- mean_{w in group} Q_w   for u in the group;    all others keep their own Q_u

(He et al., "Co-clustering for federated recommender system", WWW 2024; released code github
Xinrui17/CoFedRec.) Every client has an item table of its own for good: it trains it beside its
private scorer, per batch a step on the scorer and then one on the table, by the loss of
`models.supervised_contrastive` with the categories of the round before. That moves every row, so
that the table goes up whole; without the term clients train and send the rows that they touch. The
elbow is the point of the curve (place, s) that is farthest from the line between its ends.

The mean table is of the cohort's uploads, and nobody gets it: only categories come of it.

`N` clients, `I` items, `D` width, `K` categories.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import keys, rows, trees, wire
from ..check import at_least, static
from ..clients import groups, local_training, sgd
from ..data import Batches
from ..models.supervised_contrastive import supervised_contrastive
from ..models.text.residual_kmeans import residual_kmeans
from ..rounds.own_models import Mixed, Mixing, Seen, as_arrays, own_models
from ..types import Compressor, Model, Packet, Stage, Strategy


def cofedrec(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    categories: int = 30,
    strength: float | None = 0.005,
    temperature: float = 0.1,
    base_temperature: float = 0.5,
    anchors: int | None = None,
    learning_rate: float = 0.1,
    item_learning_rate: float | None = None,
    epochs: int = 2,
    batch_size: int = 256,
    uplink: Compressor | None = None,
    clients_per_chunk: int | str | None = None,
    stages: Sequence[Stage] = (),
) -> Strategy:
    """An item table for every client, averaged over a group of clients that is drawn anew.

    Defaults are those of the released code. N tables are kept; `simulate.aggregated` measures each
    client with its own, as it is after grouping, which is what the release reports. Metrics: those
    of `fedavg`, and `grouped`, 1 for who got the group's table. Bytes: up a whole table; down the
    category of each item, and to the group its table. Without the contrastive term: up the touched
    rows, down the group's table.
    Arguments that are not named here are those of `fedavg`.

    Args:
        model: one that shares a table `item`, such as `models.pfedrec(num_items)`.
        categories: K.
        strength: as in `models.supervised_contrastive`; None for no such term.
        temperature: as in `models.supervised_contrastive`.
        base_temperature: as in `models.supervised_contrastive`.
        anchors: as in `models.supervised_contrastive`; None, as released, costs I^2 D a batch.
        learning_rate: of the scorer, and of all else that is private.
        item_learning_rate: of the table; default learning_rate * num_items * 80, as released.
        uplink: as in `federated`; clients go on from what arrived.
        stages: as in `federated`.

    Raises:
        ValueError: as `models.supervised_contrastive`, for categories < 1, for more categories
            than items, and for a stage that receives.
        MemoryError: in `init`, where N tables cannot fit.

    Example:
        >>> model, examples = models.pfedrec(num_items), data.pointwise(4)
        >>> strategy = strategies.cofedrec(model, examples, categories=8, anchors=16)
    """
    static("cofedrec", "categories", categories)
    at_least("cofedrec", "categories", categories, 1)
    weight = 0.0 if strength is None else strength
    near = supervised_contrastive(model, weight, temperature, base_temperature, anchors)
    num_items = jax.eval_shape(near.init, jax.random.key(0))[0]["model"]["item"].shape[0]
    if categories > num_items:
        raise ValueError(
            f"cofedrec(categories={categories}) of {num_items} items; use at most as many."
        )
    rate = learning_rate * num_items * 80 if item_learning_rate is None else item_learning_rate
    optimizer = [groups({"private": sgd(learning_rate)}), groups({"shared": sgd(rate)})]
    mixing, of_client, begins = co_clustering(categories), model, model
    if strength is not None:
        mixing, of_client, begins = with_categories(mixing, categories), near, as_arrays(model)
    client = local_training(of_client, examples, optimizer, epochs, None, batch_size, probe)
    return own_models(client, begins, mixing, uplink, clients_per_chunk, stages)


def co_clustering(categories: int) -> Mixing:
    """What the server of `cofedrec` does; it keeps {"category": int32[I]}, -1 at first."""

    def init(shared, num_clients):
        return {"category": jnp.full(shared["item"].shape[0], -1, jnp.int32)}

    def mix(key, kept, seen: Seen, models):
        there, mean = seen.weight > 0, rows.dense(seen.mean)["item"]
        codes, _ = residual_kmeans(keys.stream(key, "categories"), mean, 1, categories)
        category = jnp.where(there.any(), codes[:, 0], kept["category"])
        chosen = jax.random.randint(keys.stream(key, "category"), (), 0, categories)
        lots = jax.random.uniform(keys.stream(key, "client"), there.shape)
        one = jnp.argmax(jnp.where(there, lots, -1.0))
        alike = similarities(rows.dense(models)["item"], one, category == chosen)
        group = up_to_elbow(alike, there)
        mean = trees.weighted_sum(group / jnp.maximum(group.sum(), 1), models)
        put = lambda x, m: jnp.where(trees.leading(group, x), m, x).astype(x.dtype)
        nbytes = wire.nbytes(Packet({"model": rows.dense(mean)}))
        down = jnp.where(group, nbytes, 0).astype(jnp.uint32)
        metrics = {"grouped": group.astype(jnp.float32)}
        return Mixed({"category": category}, jax.tree.map(put, models, mean), down, metrics)

    return Mixing(init, mix)


def with_categories(mixing: Mixing, categories: int) -> Mixing:
    """`mixing`, which tells all clients of the round the category of each item, in a message of its
    own."""

    def mix(key, kept, seen: Seen, models):
        mixed = mixing.mix(key, kept, seen, models)
        symbols = mixed.kept["category"].astype(jnp.uint8 if categories <= 256 else jnp.uint32)
        nbytes = wire.nbytes(Packet({"category": wire.Codes(symbols, categories)}))
        return replace(mixed, down=mixed.down + jnp.where(seen.weight > 0, nbytes, 0))

    def given(kept, model):
        return {"model": model, "category": trees.Frozen(kept["category"])}

    return replace(mixing, mix=mix, given=given, change=lambda update: update["model"])


def similarities(tables: jax.Array, one: jax.Array, named: jax.Array) -> jax.Array:
    """float[N]: the sum over the items that are `named` bool[I] of the cosines of rows of each of
    `tables` float[N, I, D] and those of number `one`."""
    mine = tables[one]
    products = (tables * mine).sum(-1)
    norms = jnp.sqrt((tables**2).sum(-1) * (mine**2).sum(-1))
    return jnp.where(named, products / jnp.maximum(norms, 1e-8), 0.0).sum(1)


def up_to_elbow(alike: jax.Array, there: jax.Array) -> jax.Array:
    """bool[N]: those of `there` with the largest `alike` float[N], down to the elbow."""
    place = jnp.arange(alike.size)
    order = jnp.argsort(jnp.where(there, -alike, jnp.inf), stable=True)
    count = there.sum()
    curve = alike[order] - alike[order[0]]
    last = jnp.maximum(count - 1, 0)
    # The distance from the line between the ends, times its length.
    apart = jnp.abs(place * curve[last] - last * curve)
    elbow = jnp.argmax(jnp.where(place < count, apart, -1.0))
    chosen = jnp.zeros(alike.size, bool).at[order].set(place <= elbow)
    return chosen & there
