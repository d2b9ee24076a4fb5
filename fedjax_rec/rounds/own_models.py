"""A model for every client, which the server mixes from what all of them sent.

    M_k <- M_k + what client k's data change, as it arrives,   then   M <- mix(M)

Where `decentralized` passes models on, here a server looks at all of them: it groups clients, or
weighs them for each other, and sends some or all of them a model of their own. What it mixes is
what it knows: a client has the model that arrived, through stages and the uplink, and goes on from
it. `State.private` is {"model": leaves [N, ...], "own": what never leaves a client}, so that
`simulate.aggregated` measures each client's model as it is after mixing, and a probe as it is
before. `State.shared` is the mean of the models of the last cohort. Of a table a client sends the
rows that it touched, which with what the server knows of it is all of it.

`N` clients, `C` cohort, `c` clients a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from .. import keys, rows, trees
from ..made import part
from ..types import (
    Array,
    Client,
    Cohort,
    Compressor,
    Model,
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
from .plan import checked
from .rejected import judged
from .uplink import opening, refuse_receiving, uplink_of


@dataclass(frozen=True)
class Seen:
    """What the server knows of a round. weight: float[N], examples, 0 of who is not there; told:
    `Upload.aux`, leaves [N, ...], 0 likewise; mean: of the models of those who are there, or of the
    cohort before them where nobody is."""

    weight: Array
    told: Any
    mean: PyTree


@dataclass(frozen=True)
class Mixed:
    """kept: what the server keeps; models: leaves [N, ...], of clients that are not there the same
    bits; down: uint32[N], the bytes that each client gets; metrics: name -> float[N]."""

    kept: PyTree
    models: PyTree
    down: Array
    metrics: Mapping[str, Array] = field(default_factory=dict)


@part
class Mixing:
    """init(shared, num_clients) -> kept: what the server keeps beside the models.
    mix(key, kept, Seen, models) -> Mixed, models leaves [N, ...].
    given(kept, model) -> the `shared` of a client that has this model.
    change(update) -> the model's part of a client's update."""

    init: Callable[..., PyTree]
    mix: Callable[..., Mixed]
    given: Callable[..., PyTree] = lambda kept, model: model
    change: Callable[..., PyTree] = lambda update: update


def as_arrays(model: Model) -> Model:
    """`model` whose shared tables are plain arrays, which its losses read whole."""

    def init(key, common=None):
        shared, private = model.init(key, common)
        return rows.dense(shared), private

    return replace(model, init=init)


def own_models(
    client: Client,
    model: Model,
    mixing: Mixing,
    uplink: Compressor | None = None,
    clients_per_chunk: int | str | None = None,
    stages: Sequence[Stage] = (),
) -> Strategy:
    """A strategy of clients' models that a server mixes.

    Clients outside the cohort, and those without examples, keep everything to the bit. Metrics:
    those of the client and of the mixing. Bytes: up the change of the model, of tables the touched
    rows; down what the mixing says; all begin from one model that they are born with.

    Args:
        client: trains what `mixing.given` makes of a client's model.
        model: that of all clients at the start, with tables or as arrays (`as_arrays`); it scores.
        mixing: what the server does.
        uplink: as in `federated`; the server mixes models as they arrive, and clients go on from
            these.
        clients_per_chunk: as in `federated`.
        stages: as in `federated`, of the change of the model.

    Raises:
        ValueError: for a stage that receives, since the server sums no uploads.
        MemoryError: before anything runs, where N models cannot fit.
    """
    checked("own_models", clients_per_chunk)
    refuse_receiving("own_models", stages)
    sender_of = partial(uplink_of, uplink, stages)

    def fresh(key, num_clients) -> State:
        shared = model.init(keys.stream(key, "shared"))[0]
        memory = ()
        if uplink is not None or stages:
            memory = copies(sender_of(shared).init(rows.zero_update(shared)), num_clients)
        models = copies(trees.trainable(shared), num_clients)
        private = {"model": models, "own": first_private(client, key, num_clients)}
        return State(shared, private, memory, mixing.init(shared, num_clients), jnp.int32(0))

    # A round holds the models of before and after.
    held = lambda state: {
        "models of all clients": ([state.private] * 2, SMALLER),
        "compressor memory": (state.memory, SMALLER),
    }

    def at_work(key, state: State, cohort: Cohort):
        """(train, of_clients, now) of this round; train(id, private, data) -> (own, Upload)."""
        of_clients, now = client_keys(key, state.round), now_of(state.round, state.shared, cohort)

        def train(id, private, data):
            mine = trees.with_frozen(private["model"], state.shared)
            given = mixing.given(state.server, mine)
            own, upload = client.update(of_clients.train(id), private["own"], given, data, now(id))
            change = rows.deltas(mixing.change(upload.update))
            return own, replace(upload, update=change, down=None)

        return train, of_clients, now

    def rule(key, state: State, cohort: Cohort) -> int:
        return chunk_of(clients_per_chunk, trees.nbytes(trees.trainable(state.shared)), cohort)

    def round(key, state: State, cohort: Cohort, chunk: int | None = None):
        n = cohort.data.num_clients
        train, of_clients, now = at_work(key, state, cohort)
        everyone = over_clients(train, state.private, cohort)
        sender = sender_of(state.shared)
        c = clients_at_once(chunk, rule, key, state, cohort)

        def played(held, ids):
            private, memory = held
            before = at(private, ids)
            own, upload = everyone(ids, private)
            change = upload.update
            remembered, upload, up = sender.chunk(
                ids, of_clients.encode(ids), at(memory, ids), upload, now
            )
            keep, upload, rejected = judged(ids, n, own, change, upload)
            arrived = vmapped(rows.apply, before["model"], upload.update)
            model = arrived(before["model"], upload.update)
            there = upload.weight > 0
            here = {
                "model": trees.select_each(there, model, before["model"]),
                "own": kept(client, upload.weight, before["own"], own),
            }
            private, memory = put(private, keep, here), put(memory, keep, remembered)
            info = RoundInfo(
                upload.metrics, upload.weight, up, jnp.zeros_like(up), rejected=rejected
            )
            return (private, memory), (), (), (info, upload.aux)

        begin = state.private, state.memory
        (private, memory), _, _, (info, told), _ = in_chunks(played, begin, cohort, c)
        everybody = lambda x: (
            jnp.zeros((n, *x.shape[1:]), x.dtype).at[cohort.ids].set(x, mode="drop")
        )
        weight = everybody(info.weight)
        there = weight > 0
        mean = trees.weighted_sum(there / jnp.maximum(there.sum(), 1), private["model"])
        mean = trees.select(there.any(), mean, trees.trainable(state.shared))
        mix_key = keys.stream(jax.random.fold_in(key, state.round), "mixing")
        seen = Seen(weight, jax.tree.map(everybody, told), mean)
        mixed = mixing.mix(mix_key, state.server, seen, private["model"])
        of_cohort = lambda x: jnp.where(
            info.weight > 0, x.at[cohort.ids].get(mode="fill", fill_value=0), 0
        )
        metrics = {**info.metrics, **{name: of_cohort(x) for name, x in mixed.metrics.items()}}
        info = replace(info, metrics=metrics, bytes_down=of_cohort(mixed.down))
        shared = trees.typed_as(trees.with_frozen(mean, state.shared), state.shared)
        private = {**private, "model": mixed.models}
        return State(shared, private, memory, mixed.kept, state.round + 1), info

    def packets(key, state: State, cohort: Cohort):
        train, of_clients, now = at_work(key, state, cohort)
        sender = sender_of(state.shared)

        def one(id, mine, data):
            private, memory = mine
            upload = train(id, private, data)[1]
            return sender.one(of_clients.encode(id), memory, upload, now(id))[1]

        return audited(one, (state.private, state.memory), cohort)

    def uploads(key, state: State, cohort: Cohort):
        train = at_work(key, state, cohort)[0]
        one = lambda id, mine, data: train(id, mine, data)[1].update
        return over_clients(one, state.private, cohort)(cohort.ids, state.private)

    def view(shared, private):
        return trees.with_frozen(private["model"], shared), private["own"]

    def first(key, common=None):
        shared, own = model.init(key, common)
        return shared, {"model": trees.trainable(shared), "own": own}

    begins, examples = beginning(fresh, held), client.examples
    scores = model.through(view, first)
    return Strategy(
        begins, round, scores, packets, clients_per_chunk, rule, examples, uploads=uploads,
        opened=opening(sender_of),
    )  # fmt: skip
