"""Clients guided by a graph of users that the server builds from what they upload.

    S[k, j] = similarity(Q_k, Q_j),     W[k, .] = 1/d_k on the d_k neighbours of k in S
    T_k = sum_j W[k, j] Q_j,            Q = mean_k T_k
    client k:   Q_k  <-  descent on  loss_k(p_k, Q_k) + strength * mean |Q_k - T_k|^2   from Q

GPFedRec (Zhang et al., KDD 2024; released code github Zhangcx19/GPFedRec). The server keeps the
last model of every client, a stack [N, ...] in `State.server["models"]`, and what it compares them
by, [N, N]. Clients of a chunk train in one vmapped call, each with a target of its own. A round of
C clients costs two products of [C, N] and [N, P], P the size of a model; that is the mathematics
of the method, and more than training costs where clients are small.

`N` clients, `C` cohort, `c` clients a chunk, `P` parameters of a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp

from .. import keys, rows, trees, wire
from ..types import (
    Client,
    Cohort,
    Compressor,
    Model,
    Packet,
    PyTree,
    RoundInfo,
    Stage,
    State,
    Strategy,
)
from .chunks import at, in_chunks, put
from .cohort import (
    SMALLER,
    audited,
    beginning,
    chunk_of,
    client_keys,
    clients_at_once,
    copies,
    first_private,
    kept,
    now_of,
    over_clients,
    vmapped,
)
from .downlink import downloaded
from .plan import checked
from .rejected import judged
from .uplink import opening, refuse_receiving, uplink_of
from .user_graph import Neighbours, Similarity, above_mean, cosine_similarity


def graph_guided(
    client: Client,
    model: Model,
    similarity: Similarity | None = None,
    neighbours: Neighbours | None = None,
    uplink: Compressor | None = None,
    clients_per_chunk: int | str | None = None,
    stages: Sequence[Stage] = (),
) -> Strategy:
    """A strategy of clients that are guided by their neighbours' models.

    The graph is of all clients that ever reported, by their last models; to a client that has not,
    T_k is Q. Clients outside the cohort, and those without examples, keep everything to the bit,
    their model on the server too. Metrics: those of the client, and `neighbours`, how many models
    its target is made of. Bytes: up as in `federated`; down the model and the target, of tables the
    rows that the client touched.

    Args:
        client: trains a `models.guided` model, whose `shared` is {"model": Q, "target":
            Frozen(T_k)}.
        model: the inner one, whose pytree is Q of the first round, and every T_k then; it scores.
        similarity: default `cosine_similarity()`.
        neighbours: default `above_mean()`.
        uplink: as in `federated`; the server keeps models as they arrive.
        clients_per_chunk: as in `federated`.
        stages: as in `federated`, of the change of the model; who they hold back has not reported.

    Raises:
        ValueError: for a stage that receives, since the server sums no uploads.
        MemoryError: before anything runs, where N models, similarities or private states cannot
            fit.

    Example:
        >>> guided = models.guided(model, strength=0.1)
        >>> client = clients.local_training(guided, data.pointwise(4), clients.sgd(0.1))
        >>> strategy = strategies.graph_guided(client, model, neighbours=strategies.nearest(5))
    """
    checked("graph_guided", clients_per_chunk)
    refuse_receiving("graph_guided", stages)
    similarity, neighbours = similarity or cosine_similarity(), neighbours or above_mean()
    sender_of = partial(uplink_of, uplink, stages)

    def fresh(key, num_clients) -> State:
        shared = model.init(keys.stream(key, "shared"))[0]
        memory, like = (), rows.zero_update(shared)
        if uplink is not None or stages:
            memory = copies(sender_of(shared).init(like), num_clients)
        server = {
            "models": copies(trees.trainable(shared), num_clients),
            "similarity": jnp.zeros((num_clients, num_clients)),
            "known": jnp.zeros(num_clients, bool),
        }
        private = first_private(client, key, num_clients)
        return State(shared, private, memory, server, jnp.int32(0))

    # A round holds the models of before and after, and the targets of its cohort.
    held = lambda state: {
        "private state": (state.private, SMALLER),
        "compressor memory": (state.memory, SMALLER),
        "what the server keeps": ([state.server] * 3, SMALLER),
    }

    def guides(state: State, ids):
        """(targets, how many models each is made of) of the cohort `ids`."""
        known = state.server["known"]
        weights = at(neighbours.weigh(state.server["similarity"], known), ids)
        targets = jax.tree.map(
            lambda mean, q: jnp.where(trees.leading(at(known, ids), mean), mean, q),
            mixed(weights, state.server["models"]),
            rows.dense(trees.trainable(state.shared)),
        )
        return targets, (weights > 0).sum(1).astype(jnp.float32)

    def at_work(key, state: State, cohort: Cohort):
        """(train, of_clients, now, slices) of this round; train(id, (private, target), data)."""
        shared = trees.trainable(state.shared)
        of_clients, now = client_keys(key, state.round), now_of(state.round, state.shared, cohort)

        def train(id, mine, data):
            private, target = mine
            given = {"model": state.shared, "target": trees.Frozen(target)}
            private, upload = client.update(of_clients.train(id), private, given, data, now(id))
            update, down = upload.update["model"], upload.down
            if down is None:
                # Of the target, what is there of the model.
                got = downloaded(shared, update).body
                down = wire.nbytes(Packet({"model": got, "target": got}))
            down = jnp.where(cohort.data.sizes(id) > 0, down, jnp.uint32(0))
            return private, replace(upload, update=update, down=None), down

        n = cohort.data.num_clients
        place = jnp.zeros(n, jnp.int32).at[cohort.ids].set(jnp.arange(cohort.ids.size), mode="drop")

        def slices(held, ids):
            private, targets = held
            return at(private, ids), at(targets, at(place, ids))

        return train, of_clients, now, slices

    def rule(key, state: State, cohort: Cohort) -> int:
        nbytes = 2 * trees.nbytes(trees.trainable(state.shared))
        return chunk_of(clients_per_chunk, nbytes, cohort)

    def round(key, state: State, cohort: Cohort, chunk: int | None = None):
        n, server, shared = cohort.data.num_clients, state.server, trees.trainable(state.shared)
        train, of_clients, now, slices = at_work(key, state, cohort)
        targets, degree = guides(state, cohort.ids)
        everyone = over_clients(train, (state.private, targets), cohort, slices)
        c = clients_at_once(chunk, rule, key, state, cohort)

        def played(held, ids):
            private, memory, models = held
            here, upload, down = everyone(ids, (private, targets))
            change = upload.update
            remembered, upload, up = sender_of(state.shared).chunk(
                ids, of_clients.encode(ids), at(memory, ids), upload, now
            )
            keep, upload, rejected = judged(ids, n, here, change, upload)
            arrive = lambda update: rows.apply(shared, update)
            arrived = vmapped(arrive, upload.update)(upload.update)
            models = put(models, jnp.where(upload.weight > 0, ids, n), arrived)
            here = kept(client, upload.weight, at(private, ids), here)
            private, memory = put(private, keep, here), put(memory, keep, remembered)
            info = RoundInfo(upload.metrics, upload.weight, up, down, rejected=rejected)
            return (private, memory, models), (), (), info

        begin = state.private, state.memory, server["models"]
        (private, memory, models), _, _, info, _ = in_chunks(played, begin, cohort, c)
        weight = info.weight
        metrics = {**info.metrics, "neighbours": jnp.where(weight > 0, degree, 0.0)}
        info = replace(info, metrics=metrics)
        ids = jnp.where(weight > 0, cohort.ids, n)
        known = server["known"].at[ids].set(True, mode="drop")
        alike = similarity.between(rows.dense(at(models, ids)), rows.dense(models))
        pairs = server["similarity"].at[ids].set(alike, mode="drop")
        pairs = pairs.at[:, ids].set(alike.T, mode="drop")
        # The mean of all targets, without making them.
        count = known.sum()
        weights = neighbours.weigh(pairs, known).sum(0) / jnp.maximum(count, 1)
        mean = jax.tree.map(lambda x: x[0], mixed(weights[None], models))
        q = rows.with_values(shared, trees.select(count > 0, mean, rows.dense(shared)))
        states = {"models": models, "similarity": pairs, "known": known}
        q = trees.with_frozen(q, state.shared)
        return State(q, private, memory, states, state.round + 1), info

    def packets(key, state: State, cohort: Cohort):
        train, of_clients, now, slices = at_work(key, state, cohort)
        sender = sender_of(state.shared)

        def one(id, mine, data):
            trained, memory = mine
            upload = train(id, trained, data)[1]
            return sender.one(of_clients.encode(id), memory, upload, now(id))[1]

        held = (state.private, guides(state, cohort.ids)[0]), state.memory
        both = lambda held, ids: (slices(held[0], ids), at(held[1], ids))
        return audited(one, held, cohort, both)

    def uploads(key, state: State, cohort: Cohort):
        train, _, _, slices = at_work(key, state, cohort)
        held = state.private, guides(state, cohort.ids)[0]
        one = lambda id, mine, data: rows.deltas(train(id, mine, data)[1].update)
        return over_clients(one, held, cohort, slices)(cohort.ids, held)

    begins, examples = beginning(fresh, held), client.examples
    return Strategy(
        begins, round, model, packets, clients_per_chunk, rule, examples, uploads=uploads,
        opened=opening(sender_of),
    )  # fmt: skip


def mixed(weights: jax.Array, models: PyTree) -> PyTree:
    """sum_j weights[k, j] models[j] for weights [c, N] and leaves [N, ...]; tables as arrays."""

    def one(x):
        total = jnp.matmul(weights, x.reshape(x.shape[0], -1), precision="highest")
        return total.reshape(weights.shape[0], *x.shape[1:]).astype(x.dtype)

    return jax.tree.map(one, rows.dense(models))
