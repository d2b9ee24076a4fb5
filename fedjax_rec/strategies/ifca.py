"""IFCA: several models in `shared`, of which every client trains the one that fits it best.

    j_k = argmin_j f_k(x_j),   upload y_k - x_(j_k) after training from x_(j_k),
    x_j <- x_j + server(aggregate {y_k - x_j : j_k = j})

(Ghosh, Chung, Yin & Ramchandran, "An efficient framework for clustered federated learning", NeurIPS
2020, algorithm 1 with model averaging.) `shared` is {"clusters": (x_0, ..., x_k-1)}; frozen leaves
are in the first alone. Parts for `federated`: `clustered` clients of a model `of_clusters`, an
aggregator `by_cluster`, an uplink `of_one_cluster`; any server, which steps on all models at once.

`k` clusters, `L` rows of a client's local table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from .. import keys, rows, trees, wire
from ..aggregate import mean
from ..check import at_least
from ..clients import Local, local_training
from ..clients.batches import Passes, held_whole, turns_of
from ..clients.rates import rated
from ..data import Batches
from ..rounds.federated import federated
from ..rows.fields import ids_of
from ..types import (
    Aggregator,
    Array,
    Client,
    Compressor,
    Model,
    Packet,
    PyTree,
    Strategy,
    Transform,
    Upload,
)

Optimizer = Local | Sequence[Local] | Transform
APART = 0.01


def ifca(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    clusters: int = 2,
    optimizer: Optimizer | None = None,
    user_learning_rate: float | None = None,
    item_learning_rate: float | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    uplink: Compressor | None = None,
    aggregator: Aggregator | None = None,
    **assembly,
) -> Strategy:
    """j_k = argmin_j f_k(x_j);  x_j <- x_j + mean of the updates of the clients with j_k = j.

    Models start from keys of their own. A `downlink` broadcasts all of them.
    k forward passes a round by its mathematics.
    Arguments that are not named here are those of `fedavg`.

    Args:
        clusters: k, how many models there are.
        assembly: as in `federated`; a `server` steps on all models at once.

    Raises:
        ValueError: for clusters < 1.

    Example:
        >>> strategy = strategies.ifca(model, data.pointwise(4), clusters=3)
    """
    local = rated(model, optimizer, user_learning_rate, item_learning_rate)
    client = local_training(model, examples, local, epochs, steps, batch_size, probe)
    return federated(
        clustered(client, model, examples, steps, batch_size),
        of_clusters(model, clusters),
        None if uplink is None else of_one_cluster(uplink),
        by_cluster(aggregator or mean(), clusters),
        **assembly,
    )


def of_clusters(model: Model, clusters: int) -> Model:
    """`clusters` models, each from a key of its own, so that they can part; a client sees the one
    that it was in last, at first the first. Its private parameters serve all of them.

    A model that begins alike whatever its key, as one that starts from another run, would give
    clusters that never part: the others then begin beside the first, by normal noise of `APART` of
    the root mean square of each leaf."""
    at_least("of_clusters", "clusters", clusters, 1)

    def init(key, common=None):
        first, *others = (model.init(jax.random.fold_in(key, j))[0] for j in range(clusters))
        others = [
            _beside(first, x, keys.stream(key, f"apart {j}")) for j, x in enumerate(others, 1)
        ]
        private = {"model": model.init(key, common)[1], "cluster": jnp.int32(0)}
        return {"clusters": (first, *map(trees.trainable, others))}, private

    def view(shared, private):
        mine = _one_of(shared["clusters"], private["cluster"], lambda table: False)
        return mine, private["model"]

    return model.through(view, init)


def _beside(first: PyTree, other: PyTree, key) -> PyTree:
    """`other`, and where it is `first` to the bit, a little off it."""
    pairs = [jax.tree.leaves(trees.trainable(x)) for x in (first, other)]
    alike = jnp.stack([(x == y).all() for x, y in zip(*pairs, strict=True)]).all()
    of_leaf = iter(jax.random.split(key, len(pairs[0])))

    def one(x):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        size = APART * jnp.sqrt((jnp.float32(x) ** 2).mean())
        off = size * jax.random.normal(next(of_leaf), x.shape)
        return jnp.where(alike, x + off, x).astype(x.dtype)

    return trees.with_frozen(jax.tree.map(one, trees.trainable(other)), other)


def clustered(
    client: Client, model: Model, batches, steps: int | None = None, batch_size: int = 256
) -> Client:
    """`client`, a client of `model`, on the cluster whose model has the smallest loss.

    The loss is that of one epoch of `batches` (of `steps` batches where given) with the client's
    private parameters, before training, on the examples that `client` trains on first: give it the
    same batches, steps and batch size. `private` is {"model": ..., "cluster": int32[]}; clusters
    share the private parameters. Metrics: those of `client`, and `cluster`. Bytes: one model goes
    up and the number of its cluster beside it; the dense leaves and touched rows of all k come
    down. Costs k forward passes by its mathematics. Of the tables a client takes a copy of one
    model's rows, as many as it trains.
    """
    passes = Passes(1, steps, batch_size)

    def update(key, private, shared, data, now):
        models = shared["clusters"]
        losses = _losses(model, batches, passes, key, models, private["model"], data)
        cluster = jnp.argmin(losses).astype(jnp.int32)
        most = batches.most(data.store)
        most = most if steps is None else min(most, steps * batch_size)
        # Where clients train on whole tables, or might, a client has to have its own anyway.
        ids = batches.ids_in(data.store)
        compact = lambda table: not held_whole(table, most, ids)
        mine = _one_of(models, cluster, compact)
        after, upload = client.update(
            key, private["model"], mine, data, replace(now, shared=models[0])
        )
        change = rows.deltas(upload.update)
        there = upload.weight > 0
        cluster = jnp.where(there, cluster, private["cluster"])
        kept = {"model": after, "cluster": cluster}
        metrics = {**upload.metrics, "cluster": cluster}
        aux = {**upload.aux, "cluster": cluster}
        return kept, Upload(change, upload.weight, metrics, aux, _down(models, change))

    def init(key, id):
        return {"model": client.init(key, id), "cluster": jnp.int32(0)}

    return Client(init, update, examples=batches)


def by_cluster(aggregator: Aggregator, clusters: int) -> Aggregator:
    """`aggregator` once for each cluster, of the uploads of its members (`aux["cluster"]`).

    Of a cluster without members it is what `aggregator` makes of no uploads: no change. Raises
    ValueError for one of whose summary a part adds up and another does not.
    """
    at_least("by_cluster", "clusters", clusters, 1)
    if isinstance(aggregator.additive, dict):
        raise ValueError(
            f"by_cluster(aggregator={aggregator}): parts of its summary add up and others are "
            "listed; use the rule that it is around."
        )

    def init(shared):
        models = shared["clusters"]
        return tuple(aggregator.init(trees.with_frozen(m, models[0])) for m in models)

    def reduce(state, uploads: Upload, now):
        mine = uploads.aux["cluster"]
        weigh = lambda j: jnp.where(mine == j, uploads.weight, 0.0)
        of_members = lambda j: replace(uploads, weight=weigh(j))
        return tuple(aggregator.reduce(state[j], of_members(j), now) for j in range(clusters))

    def finish(key, state, summary, now):
        ends = [
            aggregator.finish(keys.stream(key, f"cluster {j}"), state[j], summary[j], now)
            for j in range(clusters)
        ]
        states, updates, said = zip(*ends, strict=True)
        # A client is in one cluster, of whose verdict it is the subject; to others it is nobody.
        verdicts = None if said[0] is None else sum(said)
        return states, {"clusters": updates}, verdicts

    return Aggregator(init, reduce, finish, aggregator.additive)


def of_one_cluster(uplink: Compressor) -> Compressor:
    """`uplink` for the update of one model of several. What it remembers goes with the client into
    another cluster."""

    claim, told = uplink.omega, uplink.complaint
    of_first = lambda now: replace(now, shared=now.shared["clusters"][0])
    return Compressor(
        lambda update: uplink.init(update["clusters"][0]),
        lambda key, memory, update, now: uplink.encode(key, memory, update, of_first(now)),
        lambda packet, like, now: uplink.decode(packet, like, of_first(now)),
        omega=claim and (lambda update: claim(update["clusters"][0])),
        complaint=told and (lambda packet, like, now: told(packet, like, of_first(now))),
        takes_raw=uplink.takes_raw,
    )


def _losses(model, batches, passes, key, models, private, data) -> jax.Array:
    """float[k]: the mean losses of all models on the client's examples."""
    turns = turns_of(batches, passes, key, data)
    loss_key = keys.stream(key, "clusters")
    parts = [trees.trainable(m) for m in models]

    def seen(batch, *tables):
        """Of one table, the rows of the batch in all models: a list of [k, ...] by field."""
        if not rows.is_table(tables[0]):
            return jnp.stack(tables)
        of_field = lambda ids: jnp.stack([t.values.at[ids].get(mode="clip") for t in tables])
        return [of_field(ids_of(f, batch)) for f in tables[0].fields]

    def losses(batch):
        stacks = rows.map_nodes(lambda *x: seen(batch, *x), *parts)

        def one(stacks):
            whole = lambda x, s: rows.gather(batch, x.fields, s) if rows.is_table(x) else s
            shared = rows.map_nodes(whole, parts[0], stacks)
            return model.loss(trees.with_frozen(shared, models[0]), private, batch, loss_key)

        return jax.vmap(one)(stacks)

    def turn(t, total):
        batch = turns.draw(t)
        size = batch["mask"].sum()
        return total + jnp.where(size > 0, losses(batch) * size, 0.0)

    return jax.lax.fori_loop(0, turns.turns, turn, jnp.zeros(len(models)))


def _one_of(models: tuple, cluster: jax.Array, lazily: Callable[[rows.Table], bool]) -> PyTree:
    """Model number `cluster`; of the tables that `lazily` says, only rows that are asked for."""

    def one(x, *others):
        if not rows.is_table(x):
            return jnp.stack([x, *others])[cluster]
        stack = jnp.stack([t.values for t in (x, *others)])
        return replace(x, values=_Chosen(stack, cluster) if lazily(x) else stack[cluster])

    parts = [trees.trainable(m) for m in models]
    return trees.with_frozen(rows.map_nodes(one, *parts), models[0])


def _down(models: tuple, change: PyTree) -> jax.Array:
    """uint32[]: the bytes of all models' dense leaves and of the rows in `change`, ids once."""
    k = len(models)

    def one(x, u):
        if not rows.is_table(x):
            return jax.ShapeDtypeStruct((k, *x.shape), x.dtype)
        wide = jax.ShapeDtypeStruct((u.live.shape[0], k * x.shape[-1]), u.values.dtype)
        return rows.RowsUpdate(wide, u.ids, u.live, None, u.size)

    first = trees.trainable(models[0])
    return wire.nbytes(Packet(rows.map_nodes(one, first, change)))


@dataclass(frozen=True)
class _Chosen:
    """`stack[cluster]` of float[k, I, D], of which only those rows are copied that are read."""

    stack: Array
    cluster: Array

    def __getitem__(self, ids) -> jax.Array:
        return self.stack[self.cluster][ids] if isinstance(ids, slice) else self.at[ids].get()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stack.shape[1:]

    @property
    def dtype(self):
        return self.stack.dtype

    @property
    def at(self) -> Any:
        return _At(self)


@dataclass(frozen=True)
class _At:
    """`array.at`, with the index of some rows."""

    chosen: _Chosen

    def __getitem__(self, ids) -> Any:
        return _Rows(self.chosen, ids)


@dataclass(frozen=True)
class _Rows:
    chosen: _Chosen
    ids: Array

    def get(self, **kwargs) -> jax.Array:
        return self.chosen.stack.at[self.chosen.cluster, self.ids].get(**kwargs)
