"""Local training: epochs (or steps) of minibatch descent on a client's own examples.

    for t in 1..T:  (p_k, Q_k) <- (p_k, Q_k) - eta grad l(p_k, Q_k; batch t),   upload Q_k - Q

Everything is written for one client. Batches are computed from a counter inside the loop, whose
number of turns is that of the longest client of the chunk, so one compiled loop serves clients of
every length; a shorter client's last turns are batches of padding, which change nothing.

Dimensions: `B` batch, `S` most examples of any client times ids per example.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from .. import keys, rows, trees
from ..check import at_least
from ..types import Client, Model, PyTree, Upload, at_round
from .optimizers import Local, as_local, covered, merge, path_of

Probe = Callable[..., dict[str, jax.Array]]


def local_training(
    model: Model,
    batches,
    optimizer: Local | optax.GradientTransformation | Sequence,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    probe: Probe | None = None,
) -> Client:
    """A client that trains `model` on its own examples and uploads what changed.

    batches: what an example is, e.g. `data.pointwise()`.
    optimizer: a local optimizer or optax transform; or a sequence of them, each taking a step on
        a gradient of its own in every batch (alternating updates, as PFedRec's).
    epochs: passes over the client's examples; or `steps`: batches, whatever the client's size.
    probe(score, data) -> metrics: looks at the client's model after training, before it is
        gone; `score(items, user)` scores with its own rows.
    The upload weighs the client's examples; `metrics` are `loss`, the mean over the round, and
    what the probe says. Raises ValueError for numbers below 1.
    """
    at_least("local_training", "epochs", epochs, 1)
    at_least("local_training", "batch_size", batch_size, 1)
    if steps is not None:
        at_least("local_training", "steps", steps, 1)
    # An optax transform is a tuple of its own.
    several = isinstance(optimizer, Sequence) and not isinstance(
        optimizer, optax.GradientTransformation
    )
    listed: Any = optimizer if several else [optimizer]
    optimizers = [as_local(o) for o in listed]

    def init(key, client):
        own = keys.for_client(key, client)
        return model.init(own)[1] if model.start is None else model.start(own, key)

    def update(key, private, shared, data):
        seed = keys.words(keys.stream(key, "examples"), 4)
        count = batches.count(data).astype(jnp.uint32)
        longest = batches.count(replace(data, length=data.longest))
        cycle = -(-longest // batch_size)
        turns = epochs * cycle
        if steps is not None:
            # Each client goes round its own batches until it has taken its steps.
            turns = jnp.where(cycle > 0, steps, 0)
            cycle = -(-count.astype(jnp.int32) // batch_size)
        cycle = jnp.maximum(cycle, 1)

        def draw(turn):
            epoch = (turn // cycle).astype(jnp.uint32)
            place = (turn % cycle).astype(jnp.uint32) * batch_size
            place = place + jnp.arange(batch_size, dtype=jnp.uint32)
            real = place < count
            order = keys.mix(seed[:2] + epoch)
            number = _once(
                lambda: keys.permute(jnp.where(real, place, 0), jnp.maximum(count, 1), order),
                longest,
            )
            batch = _once(lambda: batches.draw(seed[2:], data, jnp.where(real, number, 0)), longest)
            return {**batch, "mask": real.astype(jnp.float32)}

        most = batches.most(data.store)
        if steps is not None:
            most = min(most, steps * batch_size)
        local = _localize(shared, batches.ids, draw, turns, most, batch_size)
        start = {"shared": trees.trainable(local), "private": private}
        states = tuple(o.init(start) for o in optimizers)

        def turn(t, carry):
            states, params, total, seen = carry
            batch = draw(t)
            params = {**params, "shared": _mark(params["shared"], batch)}
            size = batch["mask"].sum()
            values, after = [], []
            for i, (o, state) in enumerate(zip(optimizers, states, strict=True)):
                # By epoch and batch: the turn depends on the longest client of the chunk.
                loss_key = jax.random.fold_in(keys.stream(key, f"loss {i}"), t // cycle)
                loss_key = jax.random.fold_in(loss_key, t % cycle)
                value, gradients = _gradient(model, o, params, shared, batch, loss_key)
                state, changed = o.apply(state, covered(o, params), gradients, size > 0)
                params = merge(changed, params)
                values.append(value)
                after.append(state)
            return tuple(after), params, total + values[0] * size, seen + size

        zero = jnp.float32(0)
        _, trained, total, seen = jax.lax.fori_loop(0, turns, turn, (states, start, zero, zero))
        private, local = trained["private"], trained["shared"]
        metrics = {"loss": total / jnp.maximum(seen, 1.0)}
        if probe is not None:
            own = jax.tree.map(
                lambda a, s: rows.Overlay(a, s) if rows.is_table(a) else a,
                local,
                trees.trainable(shared),
                is_leaf=rows.is_table,
            )
            own = trees.with_frozen(own, shared)
            metrics |= probe(lambda items, user=0: model.score(own, private, items, user), data)
        change = jax.tree.map(
            lambda a, b, s: rows.update_of(a, s, b) if rows.is_table(a) else a - s,
            local,
            start["shared"],
            trees.trainable(shared),
            is_leaf=rows.is_table,
        )
        return private, Upload(change, count.astype(jnp.float32), metrics)

    def at(round, shared):
        now = [at_round(o, round, shared) for o in optimizers]
        return local_training(model, batches, now, epochs, steps, batch_size, probe)

    moves = any(o.at is not None for o in optimizers)
    return Client(init, update, at if moves else None)


def _once(compute: Callable[[], PyTree], positive: jax.Array) -> PyTree:
    """`compute()`, stored. positive: any number that is above 0, which XLA must not know.

    XLA on CPU computes a cheap-looking chain again in every fusion that reads it, and drops an
    optimization barrier before it fuses: drawing a batch seven times over was two thirds of a
    round. The result of a loop is computed once, so this is a loop of one turn.
    """
    zeros = trees.zeros_like(jax.eval_shape(compute))
    return jax.lax.fori_loop(0, jnp.minimum(positive, 1), lambda _, __: compute(), zeros)


def _localize(shared, ids_per_example, draw, turns, most: int, batch_size: int) -> PyTree:
    """`shared` with each table as a `LocalTable` of what this round's batches touch.

    most: different examples that any client trains on; all lie in the first ceil(most / B) turns,
    and in the first `most` places of those. Where the batches could name as many ids as the table
    has rows, the whole table is the smaller buffer, and no ids need to be gathered first.
    """

    def capacity(table):
        for name in table.fields:
            if name not in ids_per_example:
                raise ValueError(
                    f"A row table is indexed by batch[{name!r}], which the batches do not have; "
                    f"they have {', '.join(map(repr, ids_per_example))}."
                )
        return most * sum(ids_per_example[f] for f in table.fields)

    compact = [t for t in rows.tables(shared) if capacity(t) < t.shape[0]]
    if not compact:
        return rows.map_tables(rows.whole, shared)
    fields = sorted({f for t in compact for f in t.fields})

    def collect(t, buffers):
        batch = draw(t)
        out = {}
        for f in fields:
            real = batch["mask"].reshape(-1, *[1] * (batch[f].ndim - 1)) > 0
            ids = jnp.where(real, batch[f], jnp.iinfo(jnp.int32).max).reshape(-1)
            place = t * batch_size * ids_per_example[f]
            out[f] = jax.lax.dynamic_update_slice(buffers[f], ids, (place,))
        return out

    none = jnp.iinfo(jnp.int32).max
    first_epoch = -(-most // batch_size)
    empty = {f: jnp.full(first_epoch * batch_size * ids_per_example[f], none) for f in fields}
    touched = jax.lax.fori_loop(0, jnp.minimum(turns, first_epoch), collect, empty)

    def one(table):
        if capacity(table) >= table.shape[0]:
            return rows.whole(table)
        ids = [touched[f][: most * ids_per_example[f]] for f in table.fields]
        return rows.localize(table, jnp.concatenate(ids))

    return rows.map_tables(one, shared)


def _mark(local: PyTree, batch: dict) -> PyTree:
    def one(table):
        for f in table.fields:
            real = jnp.broadcast_to(
                batch["mask"].reshape(-1, *[1] * (batch[f].ndim - 1)), batch[f].shape
            )
            table = rows.mark(table, batch[f], real)
        return table

    return rows.map_tables(one, local)


def _gradient(model: Model, optimizer: Local, params, shared, batch, key):
    """(loss, gradients) in what `optimizer` covers, tables with respect to the gathered rows."""
    paths, structure = jax.tree.flatten_with_path(params, is_leaf=rows.is_table)
    leaves = [leaf for _, leaf in paths]
    trained = [optimizer.covers(path_of(path)) for path, _ in paths]
    slots = [[x.slots(batch[f]) for f in x.fields] if rows.is_table(x) else [] for x in leaves]
    seen = [
        [x.values.at[i].get(mode="promise_in_bounds") for i in s] if rows.is_table(x) else x
        for x, s in zip(leaves, slots, strict=True)
    ]

    def loss(some):
        some = iter(some)
        full = []
        for x, value, train in zip(leaves, seen, trained, strict=True):
            value = next(some) if train else value
            if rows.is_table(x):
                value = rows.Gathered(tuple(batch[f] for f in x.fields), tuple(value), x.fields)
            full.append(value)
        tree = structure.unflatten(full)
        whole = trees.with_frozen(tree["shared"], shared)
        return model.loss(whole, tree["private"], batch, key)

    chosen = [value for value, train in zip(seen, trained, strict=True) if train]
    value, gradients = jax.value_and_grad(loss)(chosen)
    gradients = iter(gradients)
    out = []
    for x, s, train in zip(leaves, slots, trained, strict=True):
        gradient: Any = next(gradients) if train else None
        if train and rows.is_table(x):
            gradient = rows.RowsGradient(
                jnp.concatenate([i.reshape(-1) for i in s]),
                jnp.concatenate([g.reshape(-1, g.shape[-1]) for g in gradient]),
            )
        out.append(gradient)
    return value, structure.unflatten(out)
