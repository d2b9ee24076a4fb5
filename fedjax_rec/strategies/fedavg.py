"""Federated averaging, and the recommenders that are trained by it.

    x <- x + eta sum_k n_k (x_k - x) / sum_k n_k,   x_k after local training from x

- `fedavg`   federated averaging of any model (McMahan et al., AISTATS 2017)
- `fedavg_keeping`  the same, with optimizers that clients keep over rounds
- `fedper`   private parameters, trained with the shared ones (Arivazhagan et al., 2019)
- `fedmf`    matrix factorization: private user vectors, shared item rows (FCF, Ammad-ud-din et al.
             2019; FedMF, Chai et al. 2020)
- `fedncf`   neural collaborative filtering (Perifanis & Efraimidis, 2022)
- `pfedrec`  dual personalization: private scorer, then shared item rows (Zhang et al., IJCAI 2023)

A recipe takes the model, what an example is, and a probe (or None) that looks at each client's
model after training; see `clients.local_training`.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax

from .. import rows
from ..aggregate import mean, per_row, uniform
from ..clients import Local, groups, local_training, sgd
from ..clients.batches import Passes
from ..clients.keeping import keeping, kept_beside
from ..clients.rates import rated
from ..data import Batches
from ..rounds.clock import Clock
from ..rounds.federated import federated
from ..types import (
    Aggregator,
    Compressor,
    Model,
    Server,
    Stage,
    Strategy,
    Transform,
)


def fedavg(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    optimizer: Local | Sequence[Local] | Transform | None = None,
    user_learning_rate: float | None = None,
    item_learning_rate: float | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    uplink: Compressor | None = None,
    aggregator: Aggregator | None = None,
    server: Server | Transform | None = None,
    clients_per_chunk: int | str | None = None,
    downlink: Compressor | None = None,
    clock: Clock | None = None,
    deadline: float | None = None,
    stages: Sequence[Stage] = (),
) -> Strategy:
    """x <- x + eta sum_k n_k (x_k - x) / sum_k n_k, with x_k after local training from x.

    Args:
        model: what is trained, such as `models.fedmf(num_items)`.
        examples: what an example is, such as `data.pointwise(4)`.
        probe: looks at each client's model after training, see `clients.local_training`; default
            none.
        optimizer: of the clients, default `sgd(0.1)`.
        user_learning_rate: of plain SGD on what is private, in place of an optimizer; default 0.1.
        item_learning_rate: likewise, on what is shared.
        epochs: passes over a client's examples in a round.
        steps: batches of a client in a round, in place of `epochs`; default None.
        batch_size: examples of a batch.
        uplink: a compressor of what clients send, default none.
        aggregator: default the mean by examples.
        server: default `step(1.0)`, which is eta = 1.
        clients_per_chunk: clients trained at once, or the memory that a round may take, e.g.
            "2GiB"; default by the memory budget or the device.
        downlink: a compressor of what the server sends, default none.
        clock: how long clients take, see `rounds.timed`; default none.
        deadline: how many seconds the server waits, default until all are there.
        stages: what happens to an upload on its way, see `Stage`.

    Raises:
        ValueError: for numbers below 1, a deadline without a clock, and an optimizer beside rates.

    Example:
        >>> uplink = compress.error_feedback(compress.top_k(0.05))
        >>> strategy = strategies.fedavg(model, data.pointwise(4), epochs=2, uplink=uplink)
    """
    local = rated(model, optimizer, user_learning_rate, item_learning_rate)
    client = local_training(model, examples, local, epochs, steps, batch_size, probe)
    return federated(
        client, model, uplink, aggregator or mean(), server, clients_per_chunk, downlink, clock,
        deadline, stages,
    )  # fmt: skip


def fedavg_keeping(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    optimizer: Transform,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    **assembly,
) -> Strategy:
    """`fedavg` of clients whose optimizer goes on in each round with the state that it had in their
    last one, such as momentum. On a table of rows that is not what it is on an array, see
    `clients.keeping`.

    Arguments that are not named here are those of `fedavg`.

    Args:
        optimizer: an optax transform, such as `optax.sgd(0.1, momentum=0.9)`.
        assembly: as in `federated`.

    Raises:
        TypeError: for another optimizer.

    Example:
        >>> momentum = optax.sgd(0.1, momentum=0.9)
        >>> strategy = strategies.fedavg_keeping(model, data.pointwise(4), optimizer=momentum)
    """
    passes = Passes(epochs, steps, batch_size)
    client = keeping(model, examples, optimizer, passes, probe)
    return federated(client, kept_beside(model, optimizer), **assembly)


def fedper(model: Model, examples: Batches, probe=None, **kwargs) -> Strategy:
    """(p_k, Q_k) <- (p_k, Q_k) - eta grad f_k(p_k, Q_k): `fedavg` of a model whose private
    parameters stay with their clients, both trained in every step.

    Arguments that are not named here are those of `fedavg`.

    Args:
        kwargs: as in `fedavg`.

    Example:
        >>> strategy = strategies.fedper(model, data.pointwise(4))
    """
    return fedavg(model, examples, probe, **kwargs)


def fedmf(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    user_learning_rate: float = 1.0,
    item_learning_rate: float = 1.0,
    aggregator: Aggregator | None = None,
    **kwargs,
) -> Strategy:
    """SGD on (p_u, Q) with a rate each; item rows averaged over the clients that touched them.

    Arguments that are not named here are those of `fedavg`.

    Args:
        user_learning_rate: of p_u, and of all else that is private.
        item_learning_rate: of Q, and of all else that is shared.
        aggregator: default `per_row()`.
        kwargs: as in `fedavg`, without what else says how a client steps.

    Example:
        >>> strategy = strategies.fedmf(models.fedmf(num_items), data.pointwise(4))
    """
    optimizer = groups({"private": sgd(user_learning_rate), "shared": sgd(item_learning_rate)})
    return fedavg(
        model, examples, probe, optimizer=optimizer, aggregator=aggregator or per_row(), **kwargs
    )


def fedncf(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    user_learning_rate: float = 1.0,
    item_learning_rate: float = 1.0,
    layer_learning_rate: float = 0.1,
    aggregator: Aggregator | None = None,
    **kwargs,
) -> Strategy:
    """`fedmf` with a rate of its own for the shared layers.

    Arguments that are not named here are those of `fedmf`.

    Args:
        item_learning_rate: of the item rows.
        layer_learning_rate: of what is shared and no table.
        kwargs: as in `fedavg`, without what else says how a client steps.

    Example:
        >>> strategy = strategies.fedncf(models.neumf(num_items), data.pointwise(4))
    """
    optimizer = groups(
        {
            "private": sgd(user_learning_rate),
            **dict.fromkeys(_table_paths(model), sgd(item_learning_rate)),
            "shared": sgd(layer_learning_rate),
        }
    )
    return fedavg(
        model, examples, probe, optimizer=optimizer, aggregator=aggregator or per_row(), **kwargs
    )


def pfedrec(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    learning_rate: float = 0.1,
    item_learning_rate: float | None = None,
    aggregator: Aggregator | None = None,
    **kwargs,
) -> Strategy:
    """Per batch a step on the private scorer, then one on the item rows with the new scorer.

    Arguments that are not named here are those of `fedavg`.

    Args:
        learning_rate: of the scorer.
        item_learning_rate: default learning_rate * num_items * 80, as released: it makes up for the
            mean over all clients, most of which did not touch an item.
        aggregator: default `uniform()`.
        kwargs: as in `fedavg`, without what else says how a client steps.

    Example:
        >>> strategy = strategies.pfedrec(models.pfedrec(num_items), data.pointwise(4))
    """
    if item_learning_rate is None:
        item_learning_rate = learning_rate * _num_items(model) * 80
    optimizer = [
        groups({"private": sgd(learning_rate)}),
        groups({"shared": sgd(item_learning_rate)}),
    ]
    return fedavg(
        model, examples, probe, optimizer=optimizer, user_learning_rate=None,
        item_learning_rate=None, aggregator=aggregator or uniform(), **kwargs,
    )  # fmt: skip


def _outline(model: Model):
    return jax.eval_shape(model.init, jax.random.key(0))[0]


def _num_items(model: Model) -> int:
    tables = rows.tables(_outline(model))
    if not tables:
        raise ValueError("pfedrec(model) needs a model with a row table; use models.pfedrec(...).")
    return tables[0].shape[0]


def _table_paths(model: Model) -> list[str]:
    paths = rows.nodes_with_path(_outline(model))
    return ["shared/" + "/".join(str(k.key) for k in path) for path, x in paths if rows.is_table(x)]
