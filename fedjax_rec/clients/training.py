"""Local training: epochs (or steps) of minibatch descent on a client's own examples.

    for t in 1..T:  (p_k, Q_k) <- (p_k, Q_k) - eta grad l(p_k, Q_k; batch t),   upload Q_k - Q

Everything is written for one client. A `direction` may put something else in the gradient's place,
which is how proximal terms, control variates and variance reduction come in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from .. import keys, rows, trees
from ..types import Array, Client, Model, Now, PyTree, Upload
from .batches import Passes, localize, mark, turns_of
from .gradient import value_and_gradient
from .lazy import arrived, drifting, is_lazy, reached, without_push
from .optimizers import Local, as_local, covered, path_of

Probe = Callable[..., dict[str, jax.Array]]
# direction(gradient, params, batch) -> (loss, gradients) of one batch; gradient(params, batch) is
# what plain descent takes.
Direction = Callable[..., tuple[jax.Array, PyTree]]


@dataclass(frozen=True)
class Terms:
    """What is added to the gradient of the shared part in every step, on every row of its tables
    that the client touches in the round: pull (p - start) + push.

    pull: None for none. push: an array a leaf, [L, D] of a table, as `rows.here` gives it;
    or None.

    On rows that the client does not touch they act as well. There the gradient is zero, so that in
    T steps of SGD the push alone moves them, by -reach push with

        reach = eta (1 + a + ... + a^(T-1)),   a = 1 - eta pull

    which needs no client: the server adds it (`aggregate.drift`), and the client sends what
    its gradients have done besides.
    """

    pull: Any = None
    push: PyTree = None


@dataclass(frozen=True)
class Trained:
    """A client after its round.

    start, params: {"shared": ..., "private": ...} before and after, tables as `rows.LocalTable`.
    loss: float[], the mean over the round. count: float[], the client's examples. steps: float[],
    its batches with any. states: of the optimizers.
    driven: the shared part of `params`, its tables without the drift of `Terms`, which on every
        row is -reach push. reach: float[] for each of those tables, else None.
    """

    start: PyTree
    params: PyTree
    loss: Array
    count: Array
    steps: Array
    states: PyTree
    driven: PyTree = None
    reach: PyTree = None


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

    The upload weighs the client's examples; its metrics are `loss`, the mean over the round,
    `steps`, and what the probe says.

    Args:
        model: what is trained, its shared and its private parameters.
        batches: what an example is, e.g. `data.pointwise()`.
        optimizer: a local optimizer or optax transform; or a sequence of them, each taking a step
            on a gradient of its own in every batch (alternating updates, as PFedRec's).
        epochs: passes over the client's examples.
        steps: batches, whatever the client's size, in place of `epochs`; default None.
        batch_size: examples of a batch.
        probe: probe(scorer, data) -> metrics looks at the client's model after training, before it
            is gone; scorer(history) -> score(items, user), with its own rows. Default none.

    Raises:
        ValueError: for numbers below 1.

    Example:
        >>> client = clients.local_training(model, data.pointwise(4), clients.sgd(0.1), epochs=2)
    """
    passes, optimizers = Passes(epochs, steps, batch_size), several(optimizer)

    update = descent(model, batches, optimizers, passes, probe)
    return Client(first_private(model), update, examples=batches)


def descent(
    model: Model,
    batches,
    optimizers: Sequence[Local],
    passes: Passes,
    probe: Probe | None = None,
    direction: Callable[[PyTree], Direction] | None = None,
    terms: Callable[[PyTree], Terms] | None = None,
) -> Callable[..., tuple[PyTree, Upload]]:
    """`Client.update` that uploads what `train` changed and keeps the private parameters."""

    def update(key, private, shared, data, now):
        trained = train(
            model, batches, optimizers, passes, key, private, shared, data, now, direction, terms
        )
        metrics = metrics_of(trained, probe, model, shared, data)
        return kept(trained), Upload(change(trained, shared), trained.count, metrics)

    return update


def first_private(model: Model) -> Callable:
    """init(key, client) -> private, as of `Client`."""
    return lambda key, client: model.init(keys.for_client(key, client), key)[1]


def several(optimizer: Local | optax.GradientTransformation | Sequence) -> list[Local]:
    """The optimizers of a batch in their order, of one or a sequence."""
    # An optax transform is a tuple of its own.
    one = isinstance(optimizer, optax.GradientTransformation)
    listed: Any = optimizer if isinstance(optimizer, Sequence) and not one else [optimizer]
    return [as_local(o) for o in listed]


def train(
    model: Model,
    batches,
    optimizers: Sequence[Local],
    passes: Passes,
    key: jax.Array,
    private: PyTree,
    shared: PyTree,
    data,
    now: Now,
    direction: Callable[[PyTree], Direction] | None = None,
    terms: Callable[[PyTree], Terms] | None = None,
) -> Trained:
    """One client's round of descent.

    direction(start) -> Direction: made of the parameters at the start of the round; None descends
    along the gradient. terms(start) -> Terms: added to what the direction says. Rows that no
    example touches stay where they are.
    """
    turns = turns_of(batches, passes, key, data)
    local = localize(shared, turns)
    start = {"shared": trees.trainable(local), "private": rows.map_tables(rows.whole, private)}
    follow = _along if direction is None else direction(start)
    begin, acting = start, None
    if terms is not None:
        acting = terms(start)
        begin, follow = drifted(start, shared, acting, follow, optimizers, turns, passes, now)

    def turn(draw, t, carry):
        states, params, total, seen, taken = carry
        batch = draw(t)
        params = {**params, "shared": mark(params["shared"], batch)}
        size = batch["mask"].sum()
        values, after = [], []
        for i, (o, state) in enumerate(zip(optimizers, states, strict=True)):
            loss_key = turns.key(f"loss {i}", t)

            def gradient(params, batch, o=o, loss_key=loss_key):
                return value_and_gradient(model, o.covers, params, shared, batch, loss_key)

            value, gradients = follow(gradient, params, batch)
            state, changed = o.apply(state, covered(o, params), gradients, size > 0, now)
            params = rows.merge(changed, params)
            values.append(value)
            after.append(state)
        total = total + jnp.where(size > 0, values[0] * size, 0.0)
        return tuple(after), params, total, seen + size, taken + (size > 0)

    zero = jnp.float32(0)
    first = tuple(o.init(start, now) for o in optimizers), begin, zero, zero, zero
    states, params, total, seen, taken = turns.loop(turn, first)
    driven, reach = params["shared"], rows.map_nodes(lambda x: None, params["shared"])
    if acting is not None:
        driven, reach = _parted(driven, acting, optimizers, taken, now)
        driven = rows.settled(driven, start["shared"])
        there = rows.map_tables(arrived, params["shared"])
        params = {**params, "shared": rows.settled(there, start["shared"])}
    loss, count = total / jnp.maximum(seen, 1.0), turns.count.astype(jnp.float32)
    return Trained(start, params, loss, count, taken, states, driven, reach)


def drifted(start, shared, terms: Terms, follow: Direction, optimizers, turns, passes, now: Now):
    """(start, direction) under `terms`: tables whose optimizer has a rate drift, which costs the
    rows of a batch; to other leaves the terms are added in every step."""
    longest = passes.steps or passes.epochs * -(-turns.most // passes.batch_size)

    def begin(path, mine, x, push):
        rate = rate_of(optimizers, "shared/" + path_of(path), now)
        if not rows.is_table(mine) or not is_lazy(terms.pull, rate, longest):
            return mine
        return drifting(mine, x.values if mine.ids is None else mine.values, terms.pull, push, rate)

    pushes = terms.push
    if pushes is None:
        pushes = rows.map_nodes(lambda x: None, start["shared"])
    moving = rows.map_nodes_with_path(begin, start["shared"], trees.trainable(shared), pushes)

    def direction(gradient, params, batch):
        value, gradients = follow(gradient, params, batch)

        def one(g, now, x, push):
            if rows.is_table(now) and now.drift is not None:
                return g
            now, x = (v.values if rows.is_table(v) else v for v in (now, x))
            term = 0.0 if push is None else push
            term = term if terms.pull is None else term + terms.pull * (now - x)
            return rows.with_term(g, term)

        parts = (tree["shared"] for tree in (gradients, params, start))
        with_terms = rows.map_nodes(one, *parts, pushes)
        return value, {**gradients, "shared": with_terms}

    return {**start, "shared": moving}, direction


def _parted(shared: PyTree, terms: Terms, optimizers, steps, now: Now) -> tuple[PyTree, PyTree]:
    """(driven, reach) of `Trained`, of tables as they are at the end of the loop."""
    nothing = rows.map_nodes(lambda x: None, shared)
    if terms.push is None:
        return rows.map_tables(arrived, shared), nothing

    def reach_of(path, x):
        rate = rate_of(optimizers, "shared/" + path_of(path), now)
        if not rows.is_table(x) or rate is None:
            return None
        return rate * x.drift.shift if x.drift is not None else reached(terms.pull, rate, steps)

    def one(x, reach, push):
        if reach is None:
            return arrived(x) if rows.is_table(x) else x
        return without_push(x) if x.drift is not None else moved(x, reach * push)

    moved = lambda x, by: replace(x, values=x.values + by)
    reach = rows.map_nodes_with_path(reach_of, shared)
    return rows.map_nodes(one, shared, reach, terms.push), reach


def rate_of(optimizers: Sequence[Local], path: str, now: Now):
    """eta of the leaf at `path`, where one optimizer trains it and its step is one of SGD; else
    None."""
    rates = [o.rate(path, now) for o in optimizers if o.covers(path)]
    return rates[0] if len(rates) == 1 else None


def sgd_rate(where: str, optimizers: Sequence[Local], path: str, now: Now):
    """`rate_of`, or 0 where nothing trains the leaf.

    Raises:
        ValueError: where it is trained by something else than steps of SGD.
    """
    if not any(o.covers(path) for o in optimizers):
        return 0.0
    rate = rate_of(optimizers, path, now)
    if rate is None:
        raise ValueError(
            f"{where}(optimizer=...): what a client does not touch of {path} moves too, by a known "
            "length for steps of SGD alone; use clients.sgd, clients.scheduled(sgd, ...) or groups "
            "of them."
        )
    return rate


def _along(gradient, params, batch):
    return gradient(params, batch)


def kept(trained: Trained) -> PyTree:
    """The client's private parameters after training."""
    whole = lambda table: rows.Table(table.values, table.fields)
    return rows.map_tables(whole, trained.params["private"])


def change(trained: Trained, shared: PyTree) -> PyTree:
    """What the client uploads: after - before, tables as `rows.RowsUpdate`."""
    return rows.change(trained.params["shared"], shared, trained.start["shared"])


def driven_change(trained: Trained, shared: PyTree) -> PyTree:
    """`change` without the drift of tables, which the server adds on every row."""
    return rows.change(trained.driven, shared, trained.start["shared"])


def steps_beside(trained: Trained, shared: PyTree) -> dict:
    """`Upload.aux` of a `driven_change`: the steps, which say how far the client drifted, where
    there are tables."""
    return {"steps": trained.steps} if rows.has_tables(shared) else {}


def own_model(trained: Trained, shared: PyTree) -> PyTree:
    """The client's `shared` after training: its own rows where it touched them."""
    one = lambda a, s: rows.Overlay(a, s) if rows.is_table(a) else a
    own = rows.map_nodes(one, trained.params["shared"], trees.trainable(shared))
    return trees.with_frozen(own, shared)


def metrics_of(trained: Trained, probe: Probe | None, model: Model, shared: PyTree, data) -> dict:
    """`loss`, `steps`, and what `probe` sees of the client's own model."""
    metrics = {"loss": trained.loss, "steps": trained.steps}
    if probe is None:
        return metrics
    own, private = own_model(trained, shared), kept(trained)
    return metrics | probe(model.scorer(own, private), data)
