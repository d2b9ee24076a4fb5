"""PTF-FedRec: clients and server share predictions on items, and never parameters.

Client k trains a model of its own on its examples and on the soft labels that the server sent. It
uploads s(score_k(i)), s the logistic function, on some of the items that it trained on:

    n+ = floor(beta_k P_k) of its P_k positives,   n- = floor(gamma_k n+) of its negatives,

with beta_k and gamma_k drawn anew each round, so that the share of positives tells nothing; and
the floor(lambda n+) highest predictions of its positives trade places with those of its negatives.
The server trains a model of its own on all (user, item, prediction) of the round, which holds a
private part for each user, and sends each client of the round its predictions on `sent` items that
the client did not upload: a share mu of those that clients uploaded most often so far, of which it
knows most, and for the rest those that it scores highest.

Yuan et al., "Hide your model: a parameter transmission-free federated recommender system", ICDE
2024, and the released code, from which this differs so: the server's model there is NGCF or
LightGCN, which this library does not have, and here any `Model`; negatives are drawn anew each
round, and uploaded without repetition; soft labels replace those of the round before instead of
adding up, and may be more than the client has positives; clients' optimizers start afresh each
round, the server's does not.

`N` clients of one user each, `C` cohort, `c` clients a chunk, `I` items, `L` most uploaded items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import keys, rows, trees, wire
from ..check import at_least, fraction, is_traced, one_of, static
from ..clients import Local, local_training
from ..data import Batches
from ..rounds.chunks import at, in_chunks, put
from ..rounds.cohort import (
    beginning,
    chunk_of,
    client_keys,
    clients_at_once,
    copies,
    everybody,
    first_private,
    now_of,
    vmapped,
)
from ..rounds.plan import checked
from ..rounds.rejected import judged
from ..rounds.uplink import refuse_receiving, uplink_of
from ..types import (
    Cohort,
    Model,
    Packet,
    PyTree,
    RoundInfo,
    Stage,
    State,
    Strategy,
    Transform,
)
from .soft_labels import Lesson, answers, learned, lessons, listed, selected, swapped, taught

SMALLER = "use fewer clients or a smaller width"


def ptf_fedrec(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    server_model: Model | None = None,
    optimizer: Local | Sequence[Local] | Transform | None = None,
    epochs: int = 5,
    batch_size: int = 256,
    server_optimizer: Transform | None = None,
    server_epochs: int = 2,
    server_batch_size: int = 1024,
    beta: tuple[float, float] = (0.1, 1.0),
    gamma: tuple[float, float] = (1.0, 4.0),
    swap: float = 0.1,
    sent: int = 30,
    confident: float = 0.5,
    scored_by: str = "client",
    clients_per_chunk: int | str | None = None,
    stages: Sequence[Stage] = (),
) -> Strategy:
    """Predictions up, predictions down; defaults are those of the release.

    State: shared {"server": its model, "frozen": what no client trains}; private, leaves [N, ...],
    {"shared", "private": the client's model, "told": soft labels, "id": what the server calls it}.
    Clients outside the cohort and those without examples keep theirs to the bit. Metrics: those of
    the client, and `server_loss`, the mean over the server's training. Bytes: ids and float32
    predictions, see `wire`. Arguments that are not named here are those of `fedavg`.

    Args:
        model: of each client, all of it private, with scores that are logits (`bce()`).
        examples: `data.pointwise()`.
        server_model: likewise of one user (`members=1`), of which the server holds the shared part
            and N private parts; None for one like `model`.
        optimizer: of clients, default Adam at 0.01.
        server_optimizer: default Adam at 0.001.
        server_epochs: passes of the server over what it got in a round.
        server_batch_size: predictions of a batch of the server's.
        beta: bounds between which beta_k is uniform.
        gamma: bounds between which gamma_k is uniform.
        swap: lambda.
        sent: soft labels that a client gets.
        confident: mu.
        scored_by: whose model serves a user and is measured: the `client`'s own, or the `server`'s,
            whose quality the paper reports. A probe looks at the client's.
        stages: what happens to the predictions, `upload.update`: the rows [I, 1] of a table, of
            which those that are sent are live. They change what is said of an item and leave which
            items it is said of. A client that they hold back (weight 0) is not heard and gets no
            answer.

    Raises:
        ValueError: for shares outside [0, 1], bounds that are none, clients of several users,
            models that cannot take part, and a stage that receives, since nobody sums predictions.
        MemoryError: where N models cannot fit.

    Example:
        >>> strategy = strategies.ptf_fedrec(models.fedmf(num_items), data.pointwise(4), sent=5)
    """
    where = "ptf_fedrec"
    serving: Model = server_model or model
    for name, value in (("swap", swap), ("confident", confident), ("beta", beta[1])):
        fraction(where, name, value)
    # What sets the room for pairs and for items is known before anything is traced.
    static(where, "swap", swap)
    static(where, "confident", confident)
    for name, (low, high) in (("beta", beta), ("gamma", gamma)):
        at_least(where, name, low, 0)
        if not is_traced(low) and not is_traced(high) and low > high:
            raise ValueError(f"{where}({name}={low, high}) bounds nothing; give 0 <= low <= high.")
    one_of(where, "scored_by", scored_by, ("client", "server"))
    at_least(where, "sent", sent, 1)
    for name, value in (("server_epochs", server_epochs), ("server_batch_size", server_batch_size)):
        at_least(where, name, value, 1)
    table, num_items = _of_items(model, serving, examples, sent)
    descent: Transform = server_optimizer or optax.adam(1e-3)
    frequent = int(np.rint(confident * sent))
    checked(where, clients_per_chunk)
    refuse_receiving(where, stages)
    sender = uplink_of(None, stages)
    look = None if probe is None else lambda scorer, lesson: probe(scorer, lesson.own)
    client = local_training(
        model, taught(examples, sent), optimizer or optax.adam(1e-2), epochs,
        batch_size=batch_size, probe=look,
    )  # fmt: skip
    fit = partial(learned, serving, descent, server_epochs, server_batch_size)

    def fresh(key, num_clients) -> State:
        begin, common = keys.stream(key, "shared"), keys.stream(key, "server")
        own = lambda i: trees.trainable(model.init(keys.for_client(begin, i))[0])
        begins = lambda i: serving.init(keys.for_client(common, i), common)[1]
        server = {
            "shared": serving.init(common)[0],
            "private": everybody(begins, num_clients),
        }
        nothing = jnp.full((num_clients, sent), num_items, jnp.int32)
        told = {"items": nothing, "labels": jnp.zeros(nothing.shape)}
        mine = {
            "shared": everybody(own, num_clients),
            "private": first_private(client, key, num_clients),
            "told": told,
            "id": jnp.arange(num_clients, dtype=jnp.int32),
        }
        trained = {**server, "shared": trees.trainable(server["shared"])}
        states = {"optimizer": descent.init(trained), "updates": jnp.zeros(num_items, jnp.int32)}
        shared = {"server": server, "frozen": trees.frozen(model.init(begin)[0])}
        silent = jnp.zeros((num_items, 1)), None, jnp.zeros(num_items, bool), None, num_items
        nothing = rows.RowsUpdate(*silent)
        memory = copies(sender.init(nothing), num_clients) if stages else ()
        return State(shared, mine, memory, states, jnp.int32(0))

    held = lambda state: {
        "models": (state.private, SMALLER),
        "memory of stages": (state.memory, SMALLER),
    }

    def at_work(key, state: State, cohort: Cohort):
        """(work, keys of the clients, now) of this round; work(id, private, lesson, positive) ->
        (private, Upload of predictions) of one client."""
        store = cohort.data
        if store.owners is not None:
            raise ValueError(
                f"{where}: clients hold several users; make each user a client (data.by_user)."
            )
        of_clients, now = client_keys(key, state.round), now_of(state.round, state.shared, cohort)
        most = max(1, int(swap * store.longest)) if swap else 0

        def work(id, held, lesson, positive):
            choice = of_clients.encode(id)
            whole = trees.with_frozen(held["shared"], state.shared["frozen"])
            private, upload = client.update(
                of_clients.train(id), held["private"], whole, lesson, now(id)
            )
            own = rows.apply(held["shared"], upload.update)
            held = {**held, "shared": own, "private": private}
            scores = by_client(model).score(state.shared, held, slice(None))
            seen = _touched(upload.update, table, num_items)
            chosen = selected(choice, positive & seen, ~positive & seen, beta, gamma)
            values = swapped(jax.nn.sigmoid(scores), *chosen, swap, most)
            live = chosen[0] | chosen[1]
            values = jnp.where(live, values, 0.0)[:, None]
            said = rows.RowsUpdate(values, None, live, None, num_items)
            return held, replace(upload, update=said)

        return work, of_clients, now

    def round(key, state: State, cohort: Cohort, chunk: int | None = None):
        store, ids, of_round = cohort.data, cohort.ids, jax.random.fold_in(key, state.round)
        work, of_clients, now = at_work(key, state, cohort)
        prepare = partial(lessons, examples, num_items)
        c = clients_at_once(chunk, rule, key, state, cohort)
        length = min(num_items, int(store.longest * (1 + max(gamma[1], 1))) + 1)

        def played(before, ids):
            private, memory = before
            held = at(private, ids)
            lesson, positive = prepare(store.take(ids), held["told"])
            args = ids, held, lesson, positive
            here, upload = vmapped(work, *args, axes=axes(store))(*args)
            said = upload.update
            remembered, upload, up = sender.chunk(
                ids, of_clients.encode(ids), at(memory, ids), upload, now
            )
            keep, upload, rejected = judged(ids, store.num_clients, here, said, upload)
            heard = vmapped(lambda u: listed(u, length), upload.update)(upload.update)
            heard = (*heard[:2], jnp.where(upload.weight > 0, heard[2], 0))
            private, memory = put(private, keep, here), put(memory, keep, remembered)
            return (private, memory), (), (), (upload.metrics, upload.weight, up, rejected, heard)

        begin = state.private, state.memory
        (private, memory), _, _, seen, _ = in_chunks(played, begin, cohort, c)
        metrics, weight, up, rejected, (items, labels, counts) = seen
        # By client, so that the order of the cohort does not matter.
        order = jnp.argsort(ids)
        heard = tuple(x[order] for x in (ids, items, labels, counts))
        server, moments, loss = fit(
            keys.stream(of_round, "server"),
            state.shared["server"],
            state.server["optimizer"],
            heard,
        )
        real = jnp.arange(items.shape[1]) < counts[:, None]
        updates = state.server["updates"].at[jnp.where(real, items, num_items)].add(1, mode="drop")

        def answer(heard):
            id, items, real = heard
            mine = at(server["private"], id)
            scores = serving.score(server["shared"], mine, slice(None))
            uploaded = jnp.zeros(num_items, bool)
            uploaded = uploaded.at[jnp.where(real, items, num_items)].set(True, mode="drop")
            told, message = answers(scores, uploaded, updates, sent, frequent)
            return told, wire.nbytes(Packet(message))

        told, down = jax.lax.map(answer, (ids, items, real), batch_size=c)
        there = weight > 0
        private["told"] = put(private["told"], jnp.where(there, ids, store.num_clients), told)
        metrics = {**metrics, "server_loss": jnp.where(there, loss, 0.0)}
        down = jnp.where(there, down, 0)
        info = RoundInfo(metrics, weight, up, down, rejected=rejected)
        shared = {**state.shared, "server": server}
        states = {"optimizer": moments, "updates": updates}
        return State(shared, private, memory, states, state.round + 1), info

    def rule(key, state: State, cohort: Cohort) -> int:
        model_bytes = trees.nbytes(state.private["shared"]) // cohort.data.num_clients
        return chunk_of(clients_per_chunk, model_bytes, cohort)

    def axes(store):
        return 0, 0, Lesson(store.axes(), 0, 0, 0, None), 0

    def spoken(key, state: State, cohort: Cohort):
        """(uploads before any stage, keys of the clients, now)"""
        store, ids = cohort.data, cohort.ids
        held = at(state.private, ids)
        lesson, positive = lessons(examples, num_items, store.take(ids), held["told"])
        args = ids, held, lesson, positive
        work, of_clients, now = at_work(key, state, cohort)
        return vmapped(work, *args, axes=axes(store))(*args)[1], of_clients, now

    def packets(key, state: State, cohort: Cohort):
        ids = cohort.ids
        upload, of_clients, now = spoken(key, state, cohort)
        sends = lambda id, key, memory, upload: sender.one(key, memory, upload, now(id))[1]
        sent = ids, of_clients.encode(ids), at(state.memory, ids), upload
        packet = vmapped(sends, *sent)(*sent)
        return packet, vmapped(wire.nbytes, packet)(packet)

    scores = by_client(model) if scored_by == "client" else by_server(serving)
    begins = beginning(fresh, held)
    return Strategy(
        begins, round, scores, packets, clients_per_chunk, rule, examples,
        uploads=lambda *args: spoken(*args)[0].update,
        opened=lambda state, packet, id, like: packet.body,
    )  # fmt: skip


def by_client(model: Model) -> Model:
    """What scores in `ptf_fedrec` with a client's own model.

    Args:
        model: the clients'.

    Example:
        >>> scoring = strategies.by_client(models.fedmf(num_items))
    """

    def view(shared, private):
        return trees.with_frozen(private["shared"], shared["frozen"]), private["private"]

    return model.through(view)


def by_server(model: Model) -> Model:
    """What scores in `ptf_fedrec` with the server's model and its part for the client.

    Args:
        model: the server's.

    Example:
        >>> scoring = strategies.by_server(models.fedmf(num_items))
    """

    def view(shared, private):
        mine = jax.tree.map(lambda x: x[private["id"]], shared["server"]["private"])
        return shared["server"]["shared"], mine

    return model.through(view)


def _of_items(model: Model, server: Model, examples: Batches, sent: int) -> tuple[int, int]:
    """(which of the tables of `model` is of items, how many items there are)."""
    shared = jax.eval_shape(model.init, jax.random.key(0))[0]
    found = [i for i, t in enumerate(rows.tables(shared)) if t.fields == ("items",)]
    if not found:
        raise ValueError("ptf_fedrec(model) needs shared item rows; use models.neumf or another.")
    if rows.tables(jax.eval_shape(server.init, jax.random.key(0))[1]):
        raise ValueError(
            "ptf_fedrec(server_model) has a table for each user; use one such as models.neumf."
        )
    if examples.ids != {"items": 1}:
        raise ValueError("ptf_fedrec(examples) needs single items; use data.pointwise().")
    num_items = rows.tables(shared)[found[0]].shape[0]
    theirs = [t.shape[0] for t in rows.tables(jax.eval_shape(server.init, jax.random.key(0))[0])]
    if any(n != num_items for n in theirs):
        raise ValueError(
            f"ptf_fedrec(server_model) has tables of {theirs} rows for {num_items} items; give it "
            f"num_items={num_items}."
        )
    if sent > num_items:
        raise ValueError(f"ptf_fedrec(sent={sent}) of {num_items} items; send no more than those.")
    return found[0], num_items


def _touched(update: PyTree, table: int, num_items: int) -> jax.Array:
    """bool[I]: the items that the client trained on."""
    found = [x for x in rows.nodes(update) if rows.is_table(x)][table]
    if found.ids is None:
        return found.live
    ids = jnp.where(found.live, found.ids, num_items)
    return jnp.zeros(num_items, bool).at[ids].set(True, mode="drop")
