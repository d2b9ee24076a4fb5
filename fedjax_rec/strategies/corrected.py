"""Federated averaging that corrects for clients with unlike data or unequal work.

- `fedprox`   clients are pulled to the server's model (Li et al., MLSys 2020)
- `fednova`   updates count by step (Wang et al., NeurIPS 2020)
- `scaffold`  control variates take the clients' drift out (Karimireddy et al., ICML 2020)
- `feddyn`    a linear term makes the clients' optima meet (Acar et al., ICLR 2021)

Arguments that are not named here are those of `fedavg`; `assembly` goes on to `federated`.

Extra cost: `scaffold` and `feddyn` keep an array like `shared` for every client, and `scaffold`
sends twice as much, both ways. With other local optimizers than SGD the terms cost whole local
tables in each step.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp

from .. import rows, trees
from ..aggregate import mean, normalized, uniform
from ..aggregate.mean import weighted_sum
from ..aggregate.parts import by_part, total
from ..clients import Local, sgd
from ..clients.batches import Passes
from ..clients.control import controlled
from ..clients.dynamic import dynamic
from ..clients.proximal import proximal
from ..data import Batches
from ..rounds.federated import federated
from ..rows.update import zeros_of
from ..servers import step as servers
from ..types import Aggregator, Model, Server, Strategy, Transform, Upload
from .recipes import fedavg


def fedprox(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    mu: float = 0.01,
    optimizer: Local | Sequence[Local] | Transform | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    aggregator: Aggregator | None = None,
    **assembly,
) -> Strategy:
    """`fedavg` of clients that minimise f_k(x) + mu/2 |x - x0|^2. mu: 0 is `fedavg`."""
    passes = Passes(epochs, steps, batch_size)
    client = proximal(model, examples, optimizer or sgd(0.1), mu, passes, probe)
    return federated(
        client, lambda key: model.init(key)[0], aggregator=aggregator or mean(), **assembly
    )


def fednova(
    model: Model, examples: Batches, probe=None, *, aggregator: Aggregator | None = None, **kwargs
) -> Strategy:
    """x <- x + tau_eff sum_k p_k (x_k - x) / tau_k. aggregator: default `aggregate.normalized()`.

    kwargs: as in `fedavg`.
    """
    return fedavg(model, examples, probe, aggregator=aggregator or normalized(), **kwargs)


def scaffold(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    optimizer: Local | Sequence[Local] | Transform | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    aggregator: Aggregator | None = None,
    server: Server | Transform | None = None,
    **assembly,
) -> Strategy:
    """y_k <- y_k - eta (g_k - c_k + c);  x <- x + mean_k (y_k - x);  c <- mean of all c_k.

    aggregator, server: of the model, default `uniform()` and `step(1.0)`. uplink: of both parts; a
    lossy one lets c drift from mean_k c_k. Memory: N times the whole of `shared`.
    """
    passes = Passes(epochs, steps, batch_size)
    client = controlled(model, examples, optimizer or sgd(0.1), passes, probe)

    def init_shared(key):
        shared = model.init(key)[0]
        return {"model": shared, "control": zeros_of(shared)}

    parts = {"model": aggregator or uniform(), "control": total()}
    both = {
        "model": servers.as_server(server or servers.step(1.0)),
        "control": servers.step(1.0),
    }
    return federated(
        client, init_shared, aggregator=by_part(parts), server=servers.by_part(both), **assembly
    )


def feddyn(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    alpha: float = 0.1,
    optimizer: Local | Sequence[Local] | Transform | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    aggregator: Aggregator | None = None,
    **assembly,
) -> Strategy:
    """h <- h - alpha/N sum_k (x_k - x);  x <- x + mean_k (x_k - x) - h / alpha.

    alpha: large is short steps. aggregator: of x_k - x, default `uniform()`. Memory: N times the
    whole of `shared`.
    """
    passes = Passes(epochs, steps, batch_size)
    client = dynamic(model, examples, optimizer or sgd(0.1), alpha, passes, probe)
    return federated(
        client,
        lambda key: {"model": model.init(key)[0]},
        aggregator=_with_sum(aggregator or uniform()),
        server=_dynamic_server(alpha),
        **assembly,
    )


def _with_sum(aggregator: Aggregator) -> Aggregator:
    """{"model": what `aggregator` makes of the model, "sum": sum_k share_k u_k}."""
    if not aggregator.additive:
        raise ValueError(
            "feddyn(aggregator=...) goes with a sum over clients; use an additive aggregator, "
            "such as uniform()."
        )

    def init(shared):
        return aggregator.init(shared["model"])

    def reduce(uploads: Upload):
        update, share = uploads.update["model"], uploads.metrics["share"]
        inner = Upload(update, uploads.weight, uploads.metrics)
        present = jnp.where(uploads.weight > 0, share, 0.0)
        return {"model": aggregator.reduce(inner), "sum": weighted_sum(present, update)}

    def finish(key, state, summary):
        state, update = aggregator.finish(key, state, summary["model"])
        return state, {"model": update, "sum": summary["sum"]}

    return Aggregator(init, reduce, finish)


def _dynamic_server(alpha: float) -> Server:
    """State h, arrays like the trainable part of the model."""
    move = servers.step(1.0)

    def init(shared):
        return rows.dense(zeros_of(shared["model"]))

    def apply(h, shared, update):
        values = rows.map_tables(rows.to_dense, update["sum"])
        h = trees.subtract(h, trees.scale(values, alpha))
        _, model = move.apply((), shared["model"], update["model"])
        before = trees.trainable(model)
        lowered = trees.subtract(rows.dense(before), trees.scale(h, 1 / alpha))
        after = servers.with_values(before, lowered)
        return h, {**shared, "model": trees.with_frozen(after, shared["model"])}

    return Server(init, apply)
