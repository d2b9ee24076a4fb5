"""PowerSGD with a server: one low-rank factorization of the mean update, in two trips up.

    M_k = stages(u_k + e_k);   up: P_k = M_k Q;   down: P = orth(mean_k P_k)
                       up: Q_k = M_k^T P;   x <- x + P Q^T,  Q = mean_k Q_k
    e_k <- M_k - P Q_k^T

(Vogels et al., NeurIPS 2019, algorithms 1 and 2.) The product P Q^T is P P^T of the *mean* matrix,
which one trip cannot give: `compress.power_sgd_one_shot` factorizes each client's own. Q is kept by
the server, starts the next round, and is sent to all who take part in it: no client holds it, since
it is made of the Q_k of others. The first Q comes from the shapes and is sent to nobody.

A client knows of a table only the rows that it touched, so it takes P Q_k^T off these alone; what
P Q^T adds to its other rows, the server remembers and takes off as one more worker would:

    E <- E + mean_k rows_k(P Q_k^T) - P Q^T,   P_k and Q_k of the server: E Q, E^T P

so that nothing is lost: the sum of all updates is what was applied and what is remembered.

All updates of a cohort are held between the trips: the round is not in chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from .. import keys, rows, trees, wire
from ..bases import orthonormal, product
from ..check import at_least
from ..compress.leafwise import numbers, with_numbers
from ..compress.lowrank import is_reducible, restarted, start
from ..compress.remembered import nodes, remembered, values_of, with_values
from ..rows import RowsUpdate
from ..servers.step import as_server, step
from ..types import (
    Client,
    Cohort,
    Model,
    Packet,
    RoundInfo,
    Server,
    Stage,
    State,
    Strategy,
    Transform,
)
from .chunks import at, put
from .cohort import (
    SMALLER,
    beginning,
    copies,
    first_private,
    kept,
    now_of,
    over_clients,
    served,
    vmapped,
)
from .downlink import live_where_it_moves
from .federated import at_work
from .memory import refuse_too_large
from .rejected import judged
from .uplink import in_order


def power_sgd(
    client: Client,
    model: Model,
    rank: int,
    server: Server | Transform | None = None,
    remember_rows: int | None = None,
    dtype: str = "float32",
    stages: Sequence[Stage] = (),
) -> Strategy:
    """PowerSGD of the clients' updates, averaged by examples, with error feedback.

    Wire: up 32 r (n + D) bits a matrix in two messages, n the touched rows, and the ids of those;
    down, besides the model, Q in 32 r D bits before the first trip, from the second round on, and P
    in 32 r n bits before the second.

    Vectors and scalars, and what has no more than `rank` columns, travel whole in the first trip.

    Args:
        client: as in `federated`.
        model: as in `federated`.
        rank: r, the columns of P and Q.
        server: as in `federated`.
        remember_rows: of the errors that clients keep, as in `compress.error_feedback`.
        dtype: as `remember_rows`.
        stages: what happens to M_k before it is factorized, so that nothing else leaves a client
            and what they take off is not owed; they receive what is applied, P Q^T. A client that
            they hold back (weight 0) sends nothing and still owes what it owed.

    Raises:
        ValueError: for rank < 1.
        MemoryError: where the errors of N clients, or the updates of a cohort, cannot fit.

    Example:
        >>> client = clients.local_training(model, data.pointwise(4), clients.sgd(0.1))
        >>> strategy = strategies.power_sgd(client, model, rank=2)
    """
    at_least("power_sgd", "rank", rank, 1)
    optimizer = as_server(server or step(1.0))
    errors, staged = remembered("power_sgd", remember_rows, dtype), in_order(stages)

    def fresh(key, num_clients) -> State:
        shared = model.init(keys.stream(key, "shared"))[0]
        like = rows.zero_update(shared)
        memory = errors.init(like)
        memory = {"stages": staged.init(like), "errors": memory} if stages else memory
        memory = copies(memory, num_clients)
        found = nodes(like)
        states = {
            "warm": [start(_width(n), rank) if is_reducible(n, rank) else () for n in found],
            "error": [jnp.zeros_like(n.values) if _shares_rows(n, rank) else () for n in found],
            "optimizer": optimizer.init(shared),
        }
        return State(shared, first_private(client, key, num_clients), memory, states, jnp.int32(0))

    less = "use fewer clients, power_sgd(remember_rows=...) or dtype='bfloat16'"
    held = lambda state: {
        "private state": (state.private, SMALLER),
        "error memory": (state.memory, less),
    }

    def first_trip(key, state: State, cohort: Cohort):
        """Of every client: its memory, what it keeps, M_k, its first message, and the bytes that it
        got."""
        train, of_clients, now = at_work(client, key, state.round, state.shared, cohort)

        def one(id, mine, data):
            private, memory = mine
            private, upload, down = train(id, private, data)
            update = rows.deltas(upload.update)
            owed = memory["errors"] if stages else memory
            whole = with_values(update, trees.add(values_of(update), errors.recall(owed, update)))
            upload = replace(upload, update=whole)
            if stages:
                held, upload = staged.send(of_clients.encode(id), memory["stages"], upload, now(id))
                memory = {"stages": held, "errors": owed}
                upload = replace(upload, update=rows.deltas(upload.update))
            sent = [
                with_numbers(node, product(numbers(node)[0], q))
                if is_reducible(node, rank)
                else node
                for node, q in zip(nodes(upload.update), state.server["warm"], strict=True)
            ]
            return memory, private, upload, sent, down

        held = state.private, state.memory
        play = over_clients(one, held, cohort)
        outline = jax.eval_shape(play, cohort.ids, held)[2].update
        refuse_too_large(
            "updates between the trips", 4 * trees.nbytes(outline), cohort.ids.shape[0],
            "use smaller cohorts, or federated(uplink=power_sgd_one_shot(...)), which has chunks",
        )  # fmt: skip
        return play(cohort.ids, held)

    def broadcast(state: State, weights, sent):
        """Of every node: P, or the mean where the node travelled whole."""
        means = []
        for node, q, error in zip(sent, state.server["warm"], state.server["error"], strict=True):
            mean = _mean(weights, node)
            if not _is_empty(error):
                mean = mean + product(error, q)
            if not _is_empty(q):
                flat = orthonormal(mean.reshape(-1, rank))
                mean = flat.reshape(mean.shape)
            means.append(mean)
        return means

    def second_trip(update, lefts):
        """Of one client: its second message, P Q_k^T of every node, and what it got before."""
        sent, applied, received = [], [], []
        for node, left in zip(nodes(update), lefts, strict=True):
            x, real = numbers(node)
            if not is_reducible(node, rank):
                applied.append(x)
                continue
            if isinstance(node, RowsUpdate) and node.ids is not None:
                left = left.at[node.ids].get(mode="clip")
            left = jnp.where(real, left, 0)
            right = product(x.reshape(-1, x.shape[-1]).T, left.reshape(-1, rank))
            sent.append(right)
            applied.append(product(left, right.T))
            # The server knows the ids from the first trip.
            got = wire.Live(left, node.live) if isinstance(node, RowsUpdate) else left
            received.append(got)
        return sent, applied, received

    def play(key, state: State, cohort: Cohort):
        memory, private, upload, sent, down = first_trip(key, state, cohort)
        nobody, says = cohort.data.num_clients, upload.weight != 0
        keep, upload, rejected = judged(cohort.ids, nobody, private, sent, upload)
        weight = upload.weight
        private = kept(client, weight, at(state.private, cohort.ids), private)
        lefts = broadcast(state, weight / jnp.maximum(weight.sum(), 1e-30), sent)
        second = vmapped(lambda update: second_trip(update, lefts), upload.update)
        rights, applied, received = second(upload.update)
        # What the protocol needs beside the update goes with the first message.
        first = (sent, upload.aux) if upload.aux else sent
        told = (keep, rejected, says)
        return memory, private, upload, down, lefts, (first, rights), applied, received, told

    def round(key, state: State, cohort: Cohort, chunk: int | None = None):
        played = play(key, state, cohort)
        memory, private, upload, down, lefts, trips, applied, received, told = played
        keep, rejected, says = told
        weights = upload.weight / jnp.maximum(upload.weight.sum(), 1e-30)
        up = jnp.where(says, sum(_bytes(sent) for sent in trips if sent), 0)
        down = down + jnp.where(says, _bytes(received) if received else 0, 0)
        warm = [q for q in state.server["warm"] if not _is_empty(q)]
        told = (state.round > 0) & (served(cohort, cohort.ids) < cohort.data.num_clients)
        down = down + jnp.where(told, wire.nbytes(Packet(warm)) if warm else 0, 0)

        def stored(weight, memory, update, applied):
            left = trees.subtract(values_of(update), applied)
            owed = memory["errors"] if stages else memory
            owed = trees.select(weight > 0, errors.store(owed, update, left), owed)
            return {**memory, "errors": owed} if stages else owed

        args = upload.weight, memory, upload.update, applied
        memory = vmapped(stored, *args)(*args)
        like = rows.zero_update(state.shared)
        warm, owed, values, rights = [], [], [], iter(trips[1])
        parts = zip(
            nodes(like), nodes(upload.update), lefts, applied, state.server["warm"],
            state.server["error"], strict=True,
        )  # fmt: skip
        for node, batch, left, back, q, error in parts:
            if _is_empty(q):
                change = left
            else:
                flat = left.reshape(-1, rank)
                right = trees.weighted_sum(weights, next(rights))
                if not _is_empty(error):
                    right = right + product(error.T, flat)
                change = product(flat, right.T).reshape(numbers(node)[0].shape)
                q = restarted(right, q)
            if not _is_empty(error):
                error = error + _mean(weights, with_numbers(batch, back)) - change
            warm.append(q)
            owed.append(error)
            values.append(change)
        update = live_where_it_moves(with_values(like, values))
        receive_key = keys.stream(jax.random.fold_in(key, state.round), "receive")
        known = now_of(state.round, state.shared, cohort)(None)
        update = staged.receive(receive_key, update, known)
        # Where nobody takes part nothing moves, neither by momentum nor by what is remembered.
        counted = upload.weight > 0
        held = {name: state.server[name] for name in ("warm", "error")}
        before = held, state.server["optimizer"], state.shared

        def stepped():
            after = optimizer.apply(state.server["optimizer"], state.shared, update)
            return trees.typed_as(({"warm": warm, "error": owed}, *after), before)

        states, moved, shared = jax.lax.cond(counted.any(), stepped, lambda: before)

        real = cohort.ids < cohort.data.num_clients
        info = RoundInfo(upload.metrics, upload.weight, up, down, rejected=rejected)
        info = jax.tree.map(lambda x: jnp.where(trees.leading(real, x), x, jnp.zeros_like(x)), info)
        states = {**states, "optimizer": moved}
        private = put(state.private, keep, private)
        memory = put(state.memory, keep, memory)
        return State(shared, private, memory, states, state.round + 1), info

    def packets(key, state: State, cohort: Cohort):
        """The messages of both trips."""
        messages = tuple(Packet(sent) for sent in play(key, state, cohort)[5] if sent)
        return messages, sum(map(_bytes, messages), jnp.uint32(0))

    return Strategy(beginning(fresh, held), round, model, packets, examples=client.examples)


def _width(node) -> int:
    return numbers(node)[0].shape[-1]


def _shares_rows(node, rank: int) -> bool:
    """Whether clients hold a part of the rows of a matrix."""
    return isinstance(node, RowsUpdate) and is_reducible(node, rank)


def _is_empty(x: Any) -> bool:
    return isinstance(x, tuple)


def _mean(weights: jax.Array, node) -> jax.Array:
    """sum_k weights[k] * node_k, rows as whole tables."""
    return rows.to_dense(rows.weighted_sum(weights, node))


def _bytes(packets) -> jax.Array:
    """uint32[C]: of one message a client."""
    return vmapped(wire.nbytes, packets)(packets)
