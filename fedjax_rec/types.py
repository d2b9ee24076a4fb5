"""The five bundles of functions that a run is made of, and the records that flow between them.

Every function follows one calling rule, the order of `jax.lax.scan`::

    (key, state, *inputs) -> (state, output)

Bundles are frozen dataclasses: a factory closes over its hyper-parameters and returns one;
randomness and state are arguments. Records are pytrees. Everything is written for one client;
`fedjax_rec.rounds.federated` does the one `vmap`.

Dimensions: `N` clients, `C` cohort, `c` clients of one chunk, `I` items, `D` width, `B` batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, dataclass_transform

import jax

PyTree = Any
# Of a record: a jax or NumPy array, its outline (ShapeDtypeStruct), or its axis under `vmap`.
Array = Any
# An optax.GradientTransformation. It is a NamedTuple, of which a configuration file cannot name a
# factory such as `optax.adam` unless the annotation is Any.
Transform = Any


@dataclass(frozen=True)
class Model:
    """A recommender as pure functions.

    init(key) -> (shared, private): the server's pytree, and the private pytree of one client.
        Tables of `shared` that clients touch row by row are `rows.Table` nodes; leaves that are
        never trained are inside `trees.Frozen` nodes.
    loss(shared, private, batch, key) -> float: mean loss over the valid examples of one batch,
        a dict of arrays [B, ...]. `batch["mask"]` is 1 for real examples and 0 for padding.
    score(shared, private, items, user) -> float[len(items)]: higher is better. `items` is int[n],
        or `slice(None)` for the whole catalogue; `user` is the index of the user inside the
        client (0 where a client is one user).
    start(key, common) -> private: of one client, where some of it is the same for all: `key` is
        the client's, `common` everybody's. None for `init(key)[1]`.
    prepare(shared) -> shared: with what scoring needs of the whole catalogue added, made once for
        all users, such as the encoded texts of items; None where there is nothing of the kind.
    read(shared, private, history) -> private: with what scoring needs of the user's history,
        int32[H], the last items in time, -1 before the first; None where scores do not ask for it.
    predict(shared, private, batch) -> float[B]: the logit that each labelled example is positive,
        where an example is no (user, item) pair, see `data.Examples`; else None.
    """

    init: Callable[..., tuple[PyTree, PyTree]]
    loss: Callable[..., jax.Array]
    score: Callable[..., jax.Array]
    start: Callable[..., PyTree] | None = None
    prepare: Callable[..., PyTree] | None = None
    read: Callable[..., PyTree] | None = None
    predict: Callable[..., jax.Array] | None = None


@dataclass(frozen=True)
class Client:
    """Local work of one client.

    init(key, client) -> private: what the client keeps between rounds.
    update(key, private, shared, data) -> (private, Upload): `shared` is the server's pytree,
        never copied; `data` is the client's slice of `Cohort.data`.
    at(round, shared) -> Client: the same client in round `round`, where its work depends on what
        everybody knows of the round; else None.
    score(shared, private, items, user) -> float[len(items)]: how it scores with its own `private`
        and the server's `shared`, where these are not those of the model; else None.
    """

    init: Callable[..., PyTree]
    update: Callable[..., tuple[PyTree, Upload]]
    at: Callable[..., Client] | None = None
    score: Callable[..., jax.Array] | None = None


@dataclass(frozen=True)
class Compressor:
    """What an update becomes on the wire.

    init(update) -> memory: what a client (or the server) keeps between rounds, e.g. its error.
        `update` is of the whole model: its tables with all of their rows.
    encode(key, memory, update) -> (memory, Packet).
    decode(packet, like) -> update: `like` gives the structure, shapes and dtypes.
    at(round, shared) -> Compressor: the same compressor in round `round`, where it depends on
        what both ends know of the round (a schedule, a shared seed, a mask of the model); else
        None. Its memory and its packets keep their shapes.
    """

    init: Callable[..., PyTree]
    encode: Callable[..., tuple[PyTree, Packet]]
    decode: Callable[..., PyTree]
    at: Callable[..., Compressor] | None = None


@dataclass(frozen=True)
class Aggregator:
    """How uploads become one update.

    init(shared) -> state.
    reduce(uploads) -> summary: of one chunk, every leaf with a leading axis [c, ...]. Padded
        clients have weight 0 and must not count.
    finish(key, state, summary) -> (state, update): from the combined summary of all chunks.
    additive: True where summaries of chunks add up; False where they have to be stacked
        (a median), in which case `finish` sees a leading axis [chunks, ...].
    """

    init: Callable[..., PyTree]
    reduce: Callable[..., PyTree]
    finish: Callable[..., tuple[PyTree, PyTree]]
    additive: bool = True


@dataclass(frozen=True)
class Server:
    """How the aggregated update changes the server's model.

    init(shared) -> state; apply(state, shared, update) -> (state, shared).
    """

    init: Callable[..., PyTree]
    apply: Callable[..., tuple[PyTree, PyTree]]


@dataclass(frozen=True)
class Strategy:
    """One whole federated algorithm.

    init(key, num_clients) -> State.
    round(key, State, Cohort) -> (State, RoundInfo).
    packets(key, State, Cohort) -> (Packet, bytes_up): what the cohort would send in this round,
        with leading axes [C, ...], for audits of real bytes; None where nothing is sent up.
    score: as of `Client`, with `State.shared` and one client's slice of `State.private`; None where
        the model's own serves.
    model: the model that scores, where it is another than the one the strategy was made of, since
        parameters live elsewhere; else None.
    """

    init: Callable[..., State]
    round: Callable[..., tuple[State, RoundInfo]]
    packets: Callable[..., tuple[Packet, jax.Array]] | None = None
    score: Callable[..., jax.Array] | None = None
    model: Model | None = None


@dataclass_transform(frozen_default=True)
def record(cls):
    """A frozen dataclass that is a pytree; fields marked `static()` are part of its structure."""
    return jax.tree_util.register_dataclass(dataclass(frozen=True)(cls))


@record
class Upload:
    """What one client hands to the aggregator.

    update: after - before, structured as the trainable part of `shared`.
    weight: float[], the number of examples it stands for; 0 marks padding.
    metrics: dict of arrays about this client; `loss` is the mean over its round.
    down: uint32[], the bytes that came down, where that is something else than the dense leaves of
        `shared` and the rows in `update`; else None.
    """

    update: PyTree
    weight: Array
    metrics: Any
    down: Any = None


@record
class Packet:
    """One message. `body`: arrays that the next stage may compress further; `side`: indices,
    scales and seeds, shipped as they are; `known`: what the receiver holds already, not sent."""

    body: PyTree
    side: PyTree = ()
    known: PyTree = ()


@record
class Cohort:
    """The clients of one round. ids: int32[C], where `id == num_clients` marks padding;
    data: what those clients hold, one copy for all of them (see `data.Store`)."""

    ids: Array
    data: PyTree


def private_of(model: Model, key, common) -> PyTree:
    """The private part that a client starts with: `key` is its own, `common` everybody's."""
    return model.init(key)[1] if model.start is None else model.start(key, common)


def at_round(part, round, shared):
    """`part`, a Client or Compressor, as it is in this round."""
    return part if part.at is None else part.at(round, shared)


@record
class State:
    """Everything that a run carries from round to round, and all that a checkpoint holds.

    shared: the server's model. private, memory: leaves [N, ...], one slice per client.
    server: state of aggregator, server optimizer and downlink. round: int32[].
    """

    shared: PyTree
    private: PyTree
    memory: PyTree
    server: PyTree
    round: Array


@record
class RoundInfo:
    """What a round reports, in the order of `Cohort.ids`; padded clients read 0.

    metrics: leaves [C, ...], as in `Upload`. weight: float[C].
    bytes_up, bytes_down: uint32[C], the bytes of the packets that the client sent and got;
    sum them on the host as Python ints, since 2^32 is soon passed.
    """

    metrics: dict[str, Array]
    weight: Array
    bytes_up: Array
    bytes_down: Array
