"""Gradient sharing: a client sends one gradient of all its examples, at the server's model.

    up: -grad f_k(x) = -1/n_k sum_i grad l(x; example i);    x <- x - eta sum_k n_k/n grad f_k(x)

(FedSGD, McMahan et al., AISTATS 2017.) One gradient a client, one step of the server, of SGD on
sum_k n_k/n f_k with all examples of the round as its batch. Gradients of batches are added up, so
memory is that of one batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from .. import rows, servers, trees
from ..aggregate import mean
from ..clients import Local, sgd
from ..clients.batches import Passes, localize, mark, turns_of
from ..clients.gradient import value_and_gradient
from ..clients.optimizers import as_local
from ..clients.training import (
    Trained,
    first_private,
    kept,
    metrics_of,
)
from ..data import Batches
from ..rounds.federated import federated
from ..rows import as_update
from ..types import (
    Aggregator,
    Array,
    Client,
    Model,
    PyTree,
    Server,
    Strategy,
    Transform,
    Upload,
)


def fedsgd(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    private: Local | Transform | None = None,
    steps: int | None = None,
    batch_size: int = 256,
    aggregator: Aggregator | None = None,
    server: Server | Transform | None = None,
    **assembly,
) -> Strategy:
    """x <- x - eta sum_k n_k/n grad f_k(x): gradient sharing.

    To step only every m rounds: `server=optax.MultiSteps(...).gradient_transformation()`.
    Arguments that are not named here are those of `fedavg`.

    Args:
        private: the optimizer of private parameters, which take one step a round; default
            `sgd(0.1)`.
        steps: batches of a client whose gradients are added up, one for a small batch; default all
            of its examples.
        batch_size: examples whose gradient is computed at once.
        server: default `step(0.1)`, whose rate is that of SGD.
        assembly: as in `federated`.

    Example:
        >>> strategy = strategies.fedsgd(model, data.pointwise(4), server=strategies.step(0.5))
    """
    client = full_gradient(model, examples, private or sgd(0.1), steps, batch_size, probe)
    return federated(
        client, model, aggregator=aggregator or mean(),
        server=server or servers.step(0.1), **assembly,
    )  # fmt: skip


def full_gradient(
    model: Model,
    batches,
    private: Local | Transform | None = None,
    steps: int | None = None,
    batch_size: int = 256,
    probe=None,
) -> Client:
    """A client that uploads minus its gradient, -1/n_k sum_i grad l(x; example i).

    Arguments that are not named here are those of `local_training`.

    Args:
        private: takes one step on the gradient of the private parameters; None leaves them as they
            are.
        steps: batches whose gradients are added up; None for all examples once.
        batch_size: what is computed at once.

    Example:
        >>> client = strategies.full_gradient(model, data.pointwise(4), clients.sgd(0.1))
    """
    passes = Passes(1, steps, batch_size)
    optimizers = [] if private is None else [as_local(private)]

    def update(key, own, shared, data, now):
        mean = mean_gradient(model, batches, passes, key, own, shared, data)
        start, params = mean.start, mean.start
        if optimizers and jax.tree.leaves(own):
            (optimizer,) = optimizers
            alone = {"private": start["private"]}
            gradients = {"private": _of_private(mean)}
            _, alone = optimizer.apply(
                optimizer.init(alone, now), alone, gradients, mean.seen > 0, now
            )
            params = {**start, **alone}
        sent = as_update(
            jax.tree.map(jnp.negative, mean.shared), mean.local, trees.trainable(shared)
        )
        one = (mean.seen > 0).astype(jnp.float32)
        trained = Trained(start, params, mean.loss, mean.count, one, ())
        metrics = metrics_of(trained, probe, model, shared, data)
        return kept(trained), Upload(sent, mean.count, metrics)

    return Client(first_private(model), update, examples=batches)


@dataclass(frozen=True)
class MeanGradient:
    """shared, private: arrays of the mean gradient, of tables for their local rows [L, D].
    start: the parameters; local: their shared part with what was touched live. seen: examples that
    were counted, count: that the client has."""

    shared: PyTree
    private: PyTree
    start: PyTree
    local: PyTree
    loss: Array
    seen: Array
    count: Array


def mean_gradient(model, batches, passes: Passes, key, private, shared, data) -> MeanGradient:
    """The mean gradient of one client's examples at (shared, private)."""
    turns = turns_of(batches, passes, key, data)
    local = trees.trainable(localize(shared, turns))
    start = {"shared": local, "private": rows.map_tables(rows.whole, private)}
    zero = jnp.float32(0)

    def turn(t, carry):
        local, total, loss, seen = carry
        batch = turns.draw(t)
        local, size = mark(local, batch), batch["mask"].sum()
        value, gradients = value_and_gradient(
            model, lambda path: True, start, shared, batch, turns.key("loss 0", t)
        )

        total = rows.apply(total, rows.scale(gradients, size))
        return local, total, loss + size * value, seen + size

    first = local, trees.zeros_like(rows.dense(start)), zero, zero
    local, total, loss, seen = jax.lax.fori_loop(0, turns.turns, turn, first)
    most = jnp.maximum(seen, 1.0)
    mean = jax.tree.map(lambda x: x / most, total)
    count = turns.count.astype(jnp.float32)
    return MeanGradient(mean["shared"], mean["private"], start, local, loss / most, seen, count)


def _of_private(mean: MeanGradient) -> PyTree:
    """The gradient of the private part, as a local optimizer takes it."""

    def one(x, g):
        if not rows.is_table(x):
            return g
        return rows.RowsGradient(jnp.zeros(0, jnp.int32), jnp.zeros((0, g.shape[-1])), g)

    return rows.map_nodes(one, mean.start["private"], mean.private)
