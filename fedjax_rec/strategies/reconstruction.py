"""Clients that train their parts in a row: private parameters first, or made anew each round.

- `fedrep`    p_k for some epochs, then Q_k (Collins et al., ICML 2021)
- `fedrecon`  p_k made anew on one half, Q_k trained on the other (Singhal et al., NeurIPS 2021)
- `fine_tuned_fedavg`  the received model is looked at after local fine-tuning

made of these clients:

- `in_sequence([a, b])`   a trains, then b; b's upload counts
- `fine_tuned(a, b)`      a's upload counts; what b makes of the received model is looked at
- `anew(client)`          private parameters start again in every round

All of a row get the same key: they draw the same examples, negatives included, so that no rows come
down for the one that did not for the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import check, rows, trees, wire
from ..clients import Local, groups, local_training, sgd
from ..clients.rates import rated
from ..data import Batches
from ..data.subsets import query, support
from ..rounds.federated import federated
from ..types import (
    Client,
    Model,
    Packet,
    PyTree,
    Strategy,
    Transform,
    Upload,
)

Optimizer = Local | Sequence[Local] | Transform


def fedrep(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    head_optimizer: Local | Transform | None = None,
    head_epochs: int = 1,
    optimizer: Local | Transform | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    **assembly,
) -> Strategy:
    """p_k <- p_k - eta grad_p f_k(p_k, Q) for head_epochs;  Q_k <- Q_k - eta grad_Q f_k(p_k, Q_k).

    Two passes by its mathematics, head_epochs and epochs long.
    Arguments that are not named here are those of `fedavg`.

    Args:
        head_optimizer: of the private parameters, default `sgd(0.1)`.
        head_epochs: passes in which they are trained.
        optimizer: of the shared ones, default `sgd(0.1)`.
        assembly: as in `federated`.

    Example:
        >>> strategy = strategies.fedrep(model, data.pointwise(4), head_epochs=2)
    """
    head = groups({"private": head_optimizer or sgd(0.1)})
    body = groups({"shared": optimizer or sgd(0.1)})
    client = in_sequence(
        [
            local_training(model, examples, head, head_epochs, None, batch_size),
            local_training(model, examples, body, epochs, steps, batch_size, probe),
        ]
    )
    return federated(client, model, **assembly)


def fedrecon(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    private_optimizer: Local | Transform | None = None,
    private_epochs: int = 1,
    optimizer: Local | Transform | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    seed: int = 0,
    **assembly,
) -> Strategy:
    """p_k from its start by private_epochs on the support half with Q fixed;  then Q_k <- Q_k -
    eta grad_Q f_k(p_k, Q_k) on the query half, and p_k is forgotten.

    Halves are those of `data.subsets`, and clients weigh what they have in the query half: a client
    of one interaction reconstructs and sends nothing.

    An epoch of both halves costs one of `fedavg`.
    Arguments that are not named here are those of `fedavg`.

    Args:
        private_optimizer: of p_k, default `sgd(0.1)`.
        private_epochs: passes over the support half.
        optimizer: of Q_k, default `sgd(0.1)`.
        seed: of the starts. For the evaluation the last reconstruction of each client stays in
            `State.private`; no round reads it.
        assembly: as in `federated`.

    Raises:
        ValueError: for no seed of 32 bits.

    Example:
        >>> strategy = strategies.fedrecon(model, data.pointwise(4), private_epochs=2)
    """
    check.seed("fedrecon", seed)
    p = groups({"private": private_optimizer or sgd(0.1)})
    q = groups({"shared": optimizer or sgd(0.1)})
    parts = [
        local_training(model, support(examples), p, private_epochs, None, batch_size),
        local_training(model, query(examples), q, epochs, steps, batch_size, probe),
    ]
    return federated(anew(in_sequence(parts), seed), model, **assembly)


def fine_tuned_fedavg(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    optimizer: Optimizer | None = None,
    user_learning_rate: float | None = None,
    item_learning_rate: float | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    tuning: Optimizer | None = None,
    tuning_epochs: int = 1,
    **assembly,
) -> Strategy:
    """`fedavg`, whose probe sees, of each client in the cohort, the received model x after
    `tuning_epochs` epochs by `tuning`. Two passes where there is a probe.

    Arguments that are not named here are those of `fedavg`.

    Args:
        tuning: default the optimizer.
        tuning_epochs: passes of fine-tuning.
        assembly: as in `federated`.

    Example:
        >>> strategy = strategies.fine_tuned_fedavg(model, data.pointwise(4), tuning_epochs=2)
    """
    first = rated(model, optimizer, user_learning_rate, item_learning_rate)
    client = local_training(model, examples, first, epochs, steps, batch_size)
    if probe is not None:
        tuned = local_training(
            model, examples, tuning or first, tuning_epochs, None, batch_size, probe
        )
        client = fine_tuned(client, tuned)
    return federated(client, model, **assembly)


def in_sequence(clients: Sequence[Client]) -> Client:
    """All train in order from the received `shared`; the last one's upload, weight and metrics
    count.

    The earlier ones change `private` alone: what they do to `shared` is lost, so train only
    `groups({"private": ...})` there. Down come the rows that any of them touches. Costs a pass for
    each client.

    Args:
        clients: in their order.

    Raises:
        ValueError: for no clients, and, when the state is made, for clients whose private
            parameters are not structured alike.

    Example:
        >>> head, body = clients.groups({"private": clients.sgd(1.0)}), clients.sgd(0.1)
        >>> one = lambda steps: clients.local_training(model, data.pointwise(4), steps)
        >>> client = strategies.in_sequence([one(head), one(body)])
    """
    if not clients:
        raise ValueError("in_sequence(clients=[]) trains nothing; give at least one client.")

    def update(key, private, shared, data, now):
        uploads = []
        for client in clients:
            private, upload = client.update(key, private, shared, data, now)
            uploads.append(upload)
        return private, replace(uploads[-1], down=downloads(shared, uploads))

    return Client(_alike("in_sequence", clients), update, examples=clients[-1].examples)


def fine_tuned(client: Client, tuner: Client) -> Client:
    """`client`, and besides it `tuner` from the same received `shared` and private parameters.

    What `tuner` trains is looked at and thrown away: of it come the metrics, with `loss` and
    `steps` as `tuned_loss` and `tuned_steps`, and nothing else. Give the probe to `tuner`: it then
    sees the received model after fine-tuning. Two passes by its mathematics.

    Args:
        client: whose upload counts.
        tuner: what makes of the model what is looked at.

    Raises:
        ValueError: as `in_sequence`.

    Example:
        >>> client = clients.local_training(model, data.pointwise(4), clients.sgd(0.1))
        >>> tuner = clients.local_training(model, data.pointwise(4), clients.sgd(1.0), steps=2)
        >>> both = strategies.fine_tuned(client, tuner)
    """

    def update(key, private, shared, data, now):
        kept, upload = client.update(key, private, shared, data, now)
        _, tuned = tuner.update(key, private, shared, data, now)
        names = {"loss": "tuned_loss", "steps": "tuned_steps"}
        seen = {names.get(name, name): x for name, x in tuned.metrics.items()}
        down = downloads(shared, [upload, tuned])
        return kept, replace(upload, metrics=upload.metrics | seen, down=down)

    return Client(_alike("fine_tuned", [client, tuner]), update, examples=client.examples)


def anew(client: Client, seed: int = 0) -> Client:
    """`client`, which forgets its private parameters before each round and starts them afresh.

    They come from `seed`, the round and the client's id. A client without examples keeps what it
    has; after the round the private parameters stay, for the evaluation.

    Args:
        client: any.
        seed: of the starts.

    Raises:
        ValueError: for no seed of 32 bits.

    Example:
        >>> client = clients.local_training(model, data.pointwise(4), clients.sgd(0.1))
        >>> forgetful = strategies.anew(client, seed=7)
    """
    check.seed("anew", seed)

    def update(key, private, shared, data, now):
        fresh = client.init(jax.random.fold_in(jax.random.key(seed), now.round), data.id)
        after, upload = client.update(key, fresh, shared, data, now)
        return trees.select(data.length > 0, after, private), upload

    return replace(client, update=update)


def downloads(shared: PyTree, uploads: Sequence[Upload]) -> jax.Array:
    """uint32[]: the bytes of the dense leaves of `shared` and of the rows that any upload names.

    Where an upload says itself what came down (`down`), the sum of what each takes alone.
    """
    sent = trees.trainable(shared)

    def taken(updates: Sequence[PyTree]) -> jax.Array:
        one = lambda x, *us: rows.any_of(us) if rows.is_table(x) else x
        return wire.nbytes(Packet(rows.map_nodes(one, sent, *updates)))

    if all(upload.down is None for upload in uploads):
        return taken([upload.update for upload in uploads])
    alone = [taken([u.update]) if u.down is None else u.down for u in uploads]
    return jnp.stack([jnp.asarray(count, jnp.uint32) for count in alone]).sum(dtype=jnp.uint32)


def _alike(where: str, clients: Sequence[Client]):
    """init of the last client, after a look at whether all keep the same."""

    def init(key, client):
        outlines = [jax.eval_shape(c.init, key, client) for c in clients]
        same = lambda a, b: (
            jax.tree.structure(a) == jax.tree.structure(b)
            and all(
                x.shape == y.shape and x.dtype == y.dtype
                for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
            )
        )
        for i, outline in enumerate(outlines):
            if not same(outline, outlines[-1]):
                raise ValueError(
                    f"{where}: client {i} keeps {jax.tree.structure(outline)} and the last one "
                    f"{jax.tree.structure(outlines[-1])}; use clients of the same model."
                )
        return clients[-1].init(key, client)

    return init
