"""FLTrust with the strategy's own client at the server: `fedavg` that trusts what it has learned.

    u_0 = 1/R sum over the R clients of the root data of x_r - x,   x_r after local training from x

In each round the server does what its clients do, with the same client, rates and batches, on
examples of its own: those of some users who gave it their data, or of its staff. What these clients
keep (their vectors) it keeps as well. `aggregate.fltrust` does the rest (Cao et al., NDSS 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import aggregate, keys, rows
from ..clients import Local, local_training
from ..clients.rates import rated
from ..data import Batches, Store
from ..rounds.cohort import first_private, over_clients
from ..rounds.federated import federated
from ..types import Client, Cohort, Model, Strategy, Transform


def fltrust(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    root: Store | None = None,
    seed: int = 0,
    optimizer: Local | Sequence[Local] | Transform | None = None,
    user_learning_rate: float | None = None,
    item_learning_rate: float | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    **assembly,
) -> Strategy:
    """`fedavg` under `aggregate.fltrust`, whose root is the same client on the server's own data.

    Arguments that are not named here are those of `fedavg`.

    Args:
        root: what the server has, packed as the clients' data are: `data.pack(split).store` of a
            few users. All of its clients train in every round.
        seed: of what these clients begin with.
        assembly: as in `federated`, without an aggregator.

    Raises:
        ValueError: for no root data, or none with an example.

    Example:
        >>> mine = data.synthetic(num_users=6, num_items=num_items, interactions_per_user=8)
        >>> own = data.pack(data.leave_one_out()(mine), evaluation_negatives=0).store
        >>> strategy = strategies.fltrust(model, data.pointwise(4), root=own)
    """
    local = rated(model, optimizer, user_learning_rate, item_learning_rate)
    client = local_training(model, examples, local, epochs, steps, batch_size, probe)
    rule = aggregate.fltrust(root_of(client, root, seed))
    return federated(client, model, aggregator=rule, **assembly)


def root_of(client: Client, root: Store | None, seed: int = 0) -> aggregate.Root:
    """The root of `aggregate.fltrust` that trains as `client` does on the clients of `root`.

    Args:
        client: of the strategy.
        root: what the server has.
        seed: of what its clients begin with.

    Raises:
        ValueError: for no root data, or none with an example.

    Example:
        >>> mine = data.synthetic(num_users=6, num_items=num_items, interactions_per_user=8)
        >>> own = data.pack(data.leave_one_out()(mine), evaluation_negatives=0).store
        >>> client = clients.local_training(model, data.pointwise(4), clients.sgd(0.1))
        >>> rule = aggregate.fltrust(strategies.root_of(client, own))
    """
    if root is None or not int(jnp.sum(root.length)):
        raise ValueError(
            "fltrust(root) has no root data; give the store of a few users whose data the server "
            "has, data.pack(split).store."
        )
    number = root.num_clients
    cohort = Cohort(jnp.arange(number, dtype=jnp.int32), root)

    def init(shared):
        return first_private(client, jax.random.key(seed), number)

    def update(key, private, now):
        def one(id, mine, data):
            told = replace(now, client=id, cohort=cohort.ids)
            of_client = keys.for_client(key, id)
            mine, upload = client.update(of_client, mine, now.shared, data, told)
            return mine, rows.deltas(upload.update), upload.weight

        private, updates, weight = over_clients(one, private, cohort)(cohort.ids, private)
        there = (weight > 0).astype(jnp.float32)
        mean = rows.weighted_sum(there / jnp.maximum(there.sum(), 1), updates)
        return private, rows.to_dense(mean)

    return aggregate.Root(update, init)
