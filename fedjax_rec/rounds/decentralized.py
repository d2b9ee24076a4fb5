"""A model for every client: clients train their own and pass models on, with or without a server.

    M_k <- M_k + (what client k's data change),   then   M <- exchange(M)

The models are a stack [N, ...] in `State.server["models"]`; the clients of a chunk train theirs in
one vmapped call, and an `exchange` is a gather or a sparse product on the stack. What is frozen
stays one copy. `State.shared` is the mean of the models, which `simulate.aggregated` measures; a
probe looks at each client's own model, as trained and before it is passed on.

`N` clients, `C` cohort, `c` clients a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import keys, rows, trees, wire
from ..check import at_least
from ..types import Client, Cohort, Packet, PyTree, RoundInfo, State, Strategy, at_round
from .cohort import at, over_chunks, put
from .exchange import Exchange
from .memory import refuse_too_large
from .plan import chunk_size


def decentralized(
    client: Client,
    init_shared: Callable,
    exchange: Exchange,
    clients_per_chunk: int | None = None,
) -> Strategy:
    """A strategy of client models that are exchanged.

    client, init_shared, clients_per_chunk: as in `federated`; all clients start from one model.
    Clients outside the cohort, and those without examples, keep their model to the bit.
    Metrics: those of the client, and `consensus`, sqrt(mean_k |M_k - mean M|^2) over all clients
    after the exchange. Bytes: whole models, each as often as it is sent and got.
    Raises MemoryError, before anything runs, where N models or private states cannot fit.
    """
    if clients_per_chunk is not None:
        at_least("decentralized", "clients_per_chunk", clients_per_chunk, 1)

    def fresh(key, num_clients) -> State:
        shared = init_shared(keys.stream(key, "shared"))
        everyone = jnp.arange(num_clients)
        private = jax.vmap(lambda i: client.init(keys.stream(key, "private"), i))(everyone)
        copies = lambda x: jnp.broadcast_to(x, (num_clients, *x.shape))
        models = jax.tree.map(copies, trees.trainable(shared))
        return State(shared, private, (), {"models": models}, jnp.int32(0))

    def init(key, num_clients: int) -> State:
        outline = jax.eval_shape(lambda k: fresh(k, num_clients), key)
        remedy = "use fewer clients, a smaller width, or group users into clients (data.by_hash)"
        for what, held in (("private state", outline.private), ("models", outline.server)):
            refuse_too_large(what, trees.nbytes(held), num_clients, remedy)
        return jax.jit(fresh, static_argnums=1)(key, num_clients)

    def training(key, state: State):
        """(id, private, model, data) -> (private, model, Upload) of one client in this round."""
        client_key = keys.stream(jax.random.fold_in(key, state.round), "clients")
        worker = at_round(client, state.round, state.shared)

        def train(id, private, model, data):
            train_key, _ = jax.random.split(keys.for_client(client_key, id))
            whole = trees.with_frozen(model, state.shared)
            private, upload = worker.update(train_key, private, whole, data)
            return private, moved(model, upload.update), replace(upload, update=None, down=None)

        return train

    def round(key, state: State, cohort: Cohort) -> tuple[State, RoundInfo]:
        store, size = cohort.data, cohort.ids.shape[0]
        train, axes = training(key, state), (0, 0, 0, store.axes())
        model = Packet(rows.dense(trees.trainable(state.shared)))
        c = chunk_size(clients_per_chunk, trees.nbytes(model), size)

        def chunk(carry, ids):
            private, models = carry
            mine = ids, at(private, ids), at(models, ids), store.take(ids)
            here, trained, upload = jax.vmap(train, in_axes=axes)(*mine)
            seen = upload.metrics, jnp.where(ids < store.num_clients, upload.weight, 0.0)
            return (put(private, ids, here), put(models, ids, trained)), ((), seen)

        start = state.private, state.server["models"]
        (private, models), _, (metrics, weight) = over_chunks(chunk, start, cohort, c)
        exchange_key = keys.stream(jax.random.fold_in(key, state.round), "exchange")
        weights = jnp.zeros(store.num_clients).at[cohort.ids].set(weight, mode="drop")
        models, sent, got = exchange.mix(exchange_key, state.round, weights, models)
        mean, distance = consensus(models)
        metrics = {**metrics, "consensus": jnp.where(weight > 0, distance, 0.0)}
        times = lambda count: count.at[cohort.ids].get(mode="fill", fill_value=0)
        nbytes = wire.nbytes(model)
        info = RoundInfo(metrics, weight, nbytes * times(sent), nbytes * times(got))
        shared = trees.with_frozen(mean, state.shared)
        return State(shared, private, (), {"models": models}, state.round + 1), info

    def packets(key, state: State, cohort: Cohort):
        """The trained models, one of each client, whether or not this round passes them on."""
        train, ids, axes = training(key, state), cohort.ids, (0, 0, 0, cohort.data.axes())
        mine = ids, at(state.private, ids), at(state.server["models"], ids), cohort.data.take(ids)
        packet = Packet(rows.dense(jax.vmap(train, in_axes=axes)(*mine)[1]))
        return packet, jax.vmap(wire.nbytes)(packet)

    return Strategy(init, round, packets, client.score)


def moved(model: PyTree, update: PyTree) -> PyTree:
    """`model`, trainable part, with an update of one client added."""

    def one(x, u):
        if not rows.is_table(x):
            return x + u
        return replace(x, values=rows.add_to(x.values, u.delta()))

    return jax.tree.map(one, model, update, is_leaf=rows.is_table)


def consensus(models: PyTree) -> tuple[PyTree, jax.Array]:
    """(mean, sqrt(mean_k |M_k - mean|^2)) of a stack of models, leaves [N, ...]."""
    count = jax.tree.leaves(models)[0].shape[0]
    mean = trees.weighted_sum(jnp.full(count, 1.0 / count), models)
    square = lambda x, m: ((x - m) ** 2).sum() / count
    return mean, jnp.sqrt(sum(jax.tree.leaves(jax.tree.map(square, models, mean))))
