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

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import keys, rows, trees, wire
from ..check import at_least
from ..servers.step import with_values
from ..types import (
    Client,
    Cohort,
    Compressor,
    Packet,
    PyTree,
    RoundInfo,
    State,
    Strategy,
    Upload,
    at_round,
)
from .cohort import at, over_chunks, put
from .decentralized import moved
from .downlink import downloaded, whole_update
from .federated import SMALLER, keys_and_sender
from .memory import refuse_too_large
from .plan import chunk_size
from .user_graph import Neighbours, Similarity, above_mean, cosine_similarity


def graph_guided(
    client: Client,
    init_shared: Callable,
    similarity: Similarity | None = None,
    neighbours: Neighbours | None = None,
    uplink: Compressor | None = None,
    clients_per_chunk: int | None = None,
) -> Strategy:
    """A strategy of clients that are guided by their neighbours' models.

    client: trains a `models.guided` model, whose `shared` is {"model": Q, "target": Frozen(T_k)}.
    init_shared(key) -> the inner model's pytree, Q of the first round, which is every T_k then.
    similarity: default `cosine_similarity()`. neighbours: default `above_mean()`.
    uplink, clients_per_chunk: as in `federated`; the server keeps models as they arrive.
    The graph is of all clients that ever reported, by their last models; to a client that has not,
    T_k is Q. Clients outside the cohort, and those without examples, keep everything to the bit,
    their model on the server too. Metrics: those of the client, and `neighbours`, how many models
    its target is made of. Bytes: up as in `federated`; down the model and the target, of tables
    the rows that the client touched.
    Raises MemoryError, before anything runs, where N models, similarities or private states cannot
    fit.
    """
    if clients_per_chunk is not None:
        at_least("graph_guided", "clients_per_chunk", clients_per_chunk, 1)
    similarity, neighbours = similarity or cosine_similarity(), neighbours or above_mean()

    def fresh(key, num_clients) -> State:
        shared = init_shared(keys.stream(key, "shared"))
        everyone = jnp.arange(num_clients)
        private = jax.vmap(lambda i: client.init(keys.stream(key, "private"), i))(everyone)
        memory = ()
        if uplink is not None:
            like, remember = whole_update(shared), uplink.init
            memory = jax.vmap(lambda i: remember(like))(everyone)
        copies = lambda x: jnp.broadcast_to(x, (num_clients, *x.shape))
        server = {
            "models": jax.tree.map(copies, trees.trainable(shared)),
            "similarity": jnp.zeros((num_clients, num_clients)),
            "known": jnp.zeros(num_clients, bool),
        }
        return State(shared, private, memory, server, jnp.int32(0))

    def init(key, num_clients: int) -> State:
        outline = jax.eval_shape(lambda k: fresh(k, num_clients), key)
        # A round holds the models of before and after, and the targets of its cohort.
        held = {
            "private state": outline.private,
            "compressor memory": outline.memory,
            "what the server keeps": [outline.server] * 3,
        }
        for what, state in held.items():
            refuse_too_large(what, trees.nbytes(state), num_clients, SMALLER)
        return jax.jit(fresh, static_argnums=1)(key, num_clients)

    def at_work(key, state: State, ids):
        """(train, encode keys, sender, targets, neighbours) of this round for the cohort `ids`."""
        worker = at_round(client, state.round, state.shared)
        keys_of, sender = keys_and_sender(uplink, key, state.round, state.shared)
        shared, known = trees.trainable(state.shared), state.server["known"]
        weights = at(neighbours.weigh(state.server["similarity"], known), ids)
        targets = jax.tree.map(
            lambda mean, q: jnp.where(trees.leading(at(known, ids), mean), mean, q),
            mixed(weights, state.server["models"]),
            rows.dense(shared),
        )

        def train(id, private, target, data):
            train_key, _ = keys_of(id)
            given = {"model": state.shared, "target": trees.Frozen(target)}
            private, upload = worker.update(train_key, private, given, data)
            update, down = upload.update["model"], upload.down
            if down is None:
                # Of the target, what is there of the model.
                got = downloaded(shared, update).body
                down = wire.nbytes(Packet({"model": got, "target": got}))
            return private, replace(upload, update=update, down=None), down

        encode_keys = jax.vmap(lambda id: keys_of(id)[1])
        return train, encode_keys, sender, targets, (weights > 0).sum(1).astype(jnp.float32)

    def round(key, state: State, cohort: Cohort) -> tuple[State, RoundInfo]:
        store, size, n = cohort.data, cohort.ids.shape[0], cohort.data.num_clients
        train, encode_keys, sender, targets, degree = at_work(key, state, cohort.ids)
        shared, server = trees.trainable(state.shared), state.server
        place = jnp.zeros(n, jnp.int32).at[cohort.ids].set(jnp.arange(size), mode="drop")
        axes = (0, 0, 0, store.axes())
        mine = lambda private, ids: (ids, at(private, ids), at(targets, at(place, ids)))
        outline = jax.eval_shape(
            lambda ids: jax.vmap(train, in_axes=axes)(*mine(state.private, ids), store.take(ids)),
            cohort.ids[:1],
        )[1].update
        c = chunk_size(clients_per_chunk, 2 * trees.nbytes(shared), size)
        update_axes = rows.map_axes(outline)

        def chunk(carry, ids):
            private, memory, models = carry
            here, upload, down = jax.vmap(
                train, in_axes=axes, out_axes=(0, Upload(update_axes, 0, 0), 0)
            )(*mine(private, ids), store.take(ids))
            kept, upload, up = sender.chunk(encode_keys(ids), at(memory, ids), upload)
            arrived = jax.vmap(moved, in_axes=(None, rows.map_axes(upload.update)))(
                shared, upload.update
            )
            weight = jnp.where(ids < n, upload.weight, 0.0)
            models = put(models, jnp.where(weight > 0, ids, n), arrived)
            private, memory = put(private, ids, here), put(memory, ids, kept)
            return (private, memory, models), ((), (upload.metrics, weight, up, down))

        start = state.private, state.memory, server["models"]
        (private, memory, models), _, seen = over_chunks(chunk, start, cohort, c)
        metrics, weight, up, down = seen
        metrics = {**metrics, "neighbours": jnp.where(weight > 0, degree, 0.0)}
        info = RoundInfo(metrics, weight, up, down)
        ids = jnp.where(weight > 0, cohort.ids, n)
        known = server["known"].at[ids].set(True, mode="drop")
        alike = similarity.between(rows.dense(at(models, ids)), rows.dense(models))
        pairs = server["similarity"].at[ids].set(alike, mode="drop")
        pairs = pairs.at[:, ids].set(alike.T, mode="drop")
        # The mean of all targets, without making them.
        count = known.sum()
        weights = neighbours.weigh(pairs, known).sum(0) / jnp.maximum(count, 1)
        mean = jax.tree.map(lambda x: x[0], mixed(weights[None], models))
        q = with_values(shared, trees.select(count > 0, mean, rows.dense(shared)))
        states = {"models": models, "similarity": pairs, "known": known}
        q = trees.with_frozen(q, state.shared)
        return State(q, private, memory, states, state.round + 1), info

    def packets(key, state: State, cohort: Cohort):
        train, encode_keys, sender, targets, _ = at_work(key, state, cohort.ids)

        def one(id, key, private, memory, target, data):
            packet = sender.one(key, memory, train(id, private, target, data)[1])[1]
            return packet, wire.nbytes(packet)

        ids, axes = cohort.ids, (0, 0, 0, 0, 0, cohort.data.axes())
        held = at(state.private, ids), at(state.memory, ids), targets
        return jax.vmap(one, in_axes=axes)(ids, encode_keys(ids), *held, cohort.data.take(ids))

    return Strategy(init, round, packets, client.score)


def mixed(weights: jax.Array, models: PyTree) -> PyTree:
    """sum_j weights[k, j] models[j] for weights [c, N] and leaves [N, ...]; tables as arrays."""

    def one(x):
        total = jnp.matmul(weights, x.reshape(x.shape[0], -1), precision="highest")
        return total.reshape(weights.shape[0], *x.shape[1:])

    return jax.tree.map(one, rows.dense(models))
