"""A model for every client: clients train their own and pass models on, with or without a server.

    M_k <- M_k + stages(what client k's data change),   then   M <- exchange(M)

The models are a stack [N, ...] in `State.server["models"]`; the clients of a chunk train theirs in
one vmapped call, and an `exchange` is a gather or a sparse product on the stack. What is frozen
stays one copy. `State.shared` is the mean of the models, which `simulate.aggregated` measures; a
probe looks at each client's own model, as trained and before it is passed on.

`N` clients, `C` cohort, `c` clients a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import keys, rows, trees, wire
from ..types import Client, Cohort, Model, Packet, PyTree, RoundInfo, Stage, State, Strategy
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
)
from .downlink import live_where_it_moves
from .exchange import Exchange
from .plan import checked
from .rejected import judged
from .uplink import in_order, refuse_receiving


def decentralized(
    client: Client,
    model: Model,
    exchange: Exchange,
    clients_per_chunk: int | str | None = None,
    stages: Sequence[Stage] = (),
) -> Strategy:
    """A strategy of client models that are exchanged.

    Clients outside the cohort, and those without examples, keep their model to the bit. Metrics:
    those of the client, and `consensus`, sqrt(mean_k |M_k - mean M|^2) over all clients after the
    exchange. Bytes: whole models, each as often as it is sent and got.

    Args:
        client: as in `federated`; all clients start from one model.
        model: as in `federated`; all clients start from one model.
        exchange: who gets whose model.
        clients_per_chunk: as in `federated`.
        stages: what happens to a client's change before it enters the model that the client passes
            on, which is the one that it has: clips, noise, attacks. A client that they hold back
            (weight 0) keeps its model to the bit, sends nothing and gets nothing. Models alone
            travel: what a stage puts beside the update goes to nobody.

    Raises:
        ValueError: for a stage that receives, since nobody sums what is sent.
        MemoryError: before anything runs, where N models or private states cannot fit.

    Example:
        >>> client = clients.local_training(model, data.pointwise(4), clients.sgd(0.1))
        >>> strategy = strategies.decentralized(client, model, strategies.pairs())
    """
    checked("decentralized", clients_per_chunk)
    refuse_receiving("decentralized", stages)
    staged = in_order(stages)

    def fresh(key, num_clients) -> State:
        shared = model.init(keys.stream(key, "shared"))[0]
        models = copies(trees.trainable(shared), num_clients)
        private = first_private(client, key, num_clients)
        memory = copies(staged.init(rows.zero_update(shared)), num_clients) if stages else ()
        return State(shared, private, memory, {"models": models}, jnp.int32(0))

    held = lambda state: {
        "private state": (state.private, SMALLER),
        "memory of stages": (state.memory, SMALLER),
        "models": (state.server, SMALLER),
    }

    def at_work(key, state: State, cohort: Cohort):
        """(train, of_clients, now) of this round; train(id, private, model, data) -> (private,
        Upload)."""
        of_clients, now = client_keys(key, state.round), now_of(state.round, state.shared, cohort)

        def train(id, private, own, data):
            whole = trees.with_frozen(own, state.shared)
            return client.update(of_clients.train(id), private, whole, data, now(id))

        return train, of_clients, now

    def training(key, state: State, cohort: Cohort):
        """(id, (private, memory, model), data) -> (private, memory, model, Upload) of one client in
        this round."""
        train, of_clients, now = at_work(key, state, cohort)

        def one(id, mine, data):
            private, memory, own = mine
            private, upload = train(id, private, own, data)
            if stages:
                memory, upload = staged.send(of_clients.encode(id), memory, upload, now(id))
            trained = rows.apply(own, upload.update)
            return private, memory, trained, replace(upload, update=None, down=None)

        return one

    def rule(key, state: State, cohort: Cohort) -> int:
        nbytes = trees.nbytes(rows.dense(trees.trainable(state.shared)))
        return chunk_of(clients_per_chunk, nbytes, cohort)

    def round(key, state: State, cohort: Cohort, chunk: int | None = None):
        store = cohort.data
        begin = state.private, state.memory, state.server["models"]
        everyone = over_clients(training(key, state, cohort), begin, cohort)
        whole = Packet(rows.dense(trees.trainable(state.shared)))
        c = clients_at_once(chunk, rule, key, state, cohort)

        def played(held, ids):
            private, memory, models = held
            here, remembered, trained, upload = everyone(ids, held)
            keep, upload, rejected = judged(ids, store.num_clients, here, trained, upload)
            here = kept(client, upload.weight, at(private, ids), here)
            there = jnp.where(upload.weight > 0, ids, store.num_clients)
            seen = upload.metrics, upload.weight, rejected
            private, memory = put(private, keep, here), put(memory, keep, remembered)
            return (private, memory, put(models, there, trained)), (), (), seen

        (private, memory, models), _, _, seen, _ = in_chunks(played, begin, cohort, c)
        metrics, weight, rejected = seen
        exchange_key = keys.stream(jax.random.fold_in(key, state.round), "exchange")
        weights = jnp.zeros(store.num_clients).at[cohort.ids].set(weight, mode="drop")
        models, sent, got = exchange.mix(exchange_key, state.round, weights, models)
        mean, distance = consensus(models)
        metrics = {**metrics, "consensus": jnp.where(weight > 0, distance, 0.0)}
        times = lambda count: count.at[cohort.ids].get(mode="fill", fill_value=0)
        nbytes = wire.nbytes(whole)
        up, down = nbytes * times(sent), nbytes * times(got)
        info = RoundInfo(metrics, weight, up, down, rejected=rejected)
        shared = trees.with_frozen(mean, state.shared)
        shared = trees.typed_as(shared, state.shared)
        return State(shared, private, memory, {"models": models}, state.round + 1), info

    def packets(key, state: State, cohort: Cohort):
        """The trained models, one of each client, whether or not this round passes them on."""
        train = training(key, state, cohort)
        one = lambda id, mine, data: Packet(rows.dense(train(id, mine, data)[2]))
        return audited(one, (state.private, state.memory, state.server["models"]), cohort)

    def uploads(key, state: State, cohort: Cohort):
        train = at_work(key, state, cohort)[0]
        one = lambda id, mine, data: rows.deltas(train(id, mine[0], mine[1], data)[1].update)
        held = state.private, state.server["models"]
        return over_clients(one, held, cohort)(cohort.ids, held)

    def opened(state: State, packet: Packet, id, like):
        """For one who hears all, and so knows what a client had before it trained."""
        before = rows.dense(at(state.server["models"], id))
        like = rows.zero_update(trees.trainable(state.shared))
        return live_where_it_moves(rows.with_values(like, trees.subtract(packet.body, before)))

    begins, examples = beginning(fresh, held), client.examples
    return Strategy(
        begins, round, model, packets, clients_per_chunk, rule, examples, uploads=uploads,
        opened=opened,
    )  # fmt: skip


def consensus(models: PyTree) -> tuple[PyTree, jax.Array]:
    """(mean, sqrt(mean_k |M_k - mean|^2)) of a stack of models, leaves [N, ...]."""
    count = jax.tree.leaves(models)[0].shape[0]
    mean = trees.weighted_sum(jnp.full(count, 1.0 / count), models)
    square = lambda x, m: ((x - m) ** 2).sum() / count
    return mean, jnp.sqrt(sum(jax.tree.leaves(jax.tree.map(square, models, mean))))
