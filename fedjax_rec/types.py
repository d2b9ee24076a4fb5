"""The bundles of functions that a run is made of, and the records that flow between them.

Every function follows one calling rule, the order of `jax.lax.scan`::

    (key, state, *inputs) -> (state, output)

Bundles are frozen dataclasses: a factory closes over its hyper-parameters and returns one;
randomness and state are arguments. Records are pytrees. Everything is written for one client;
`fedjax_rec.rounds.federated` does the one `vmap`.

Dimensions: `N` clients, `C` cohort, `c` clients of one chunk, `I` items, `D` width, `B` batch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, dataclass_transform

import jax
from jaxtyping import Float, Float32, Int32, UInt32

from .made import part

PyTree = Any
# Of a record: a jax or NumPy array, its outline (ShapeDtypeStruct), or its axis under `vmap`. What
# type and shape it has stands around it, `Float32[Array, " C"]`, and is checked in the tests.
Array = Any
# An optax.GradientTransformation. It is a NamedTuple, of which a configuration file cannot name a
# factory such as `optax.adam` unless the annotation is Any.
Transform = Any


@dataclass(frozen=True)
class Ranking:
    """How a model scores items for a user.

    score(shared, private, catalogue, context, items, user) -> float[len(items)]: higher is better.
        `items` is int[n], or `slice(None)` for the whole catalogue; `user` is the index of the user
        inside the client (0 where a client is one user).
    catalogue(shared, private) -> pytree: what scoring needs of the whole catalogue, such as the
        encoded texts of items; made once for all users where it does not depend on `private`.
    context(shared, private, history) -> pytree: what scoring needs of the user's history, int32[H],
        the last items in time, -1 before the first; None where there is none.
    """

    score: Callable[..., jax.Array]
    catalogue: Callable[..., PyTree] = lambda shared, private: ()
    context: Callable[..., PyTree] = lambda shared, private, history: ()

    @staticmethod
    def of(score: Callable[..., jax.Array]) -> Ranking:
        """The ranking of score(shared, private, items, user), which needs nothing else."""
        return Ranking(lambda shared, private, _, __, *which: score(shared, private, *which))


@part
class Model:
    """A recommender as pure functions.

    init(key, common=None) -> (shared, private): the server's pytree, and the private pytree of one
        client. `key` is the client's own, `common` everybody's, from which comes what starts alike
        on all clients; None where there is one key for all. Tables of `shared` that clients touch
        row by row are `rows.Table` nodes; leaves that are never trained are inside `trees.Frozen`.
    loss(shared, private, batch, key) -> float: mean loss over the valid examples of one batch,
        a dict of arrays [B, ...]. `batch["mask"]` is 1 for real examples and 0 for padding; a run
        whose loss counts padding is refused before it begins, see `simulate.padding`.
    ranking: how it scores items; None where it scores none.
    predict(shared, private, batch) -> float[B]: the logit that each labelled example is positive,
        where an example is no (user, item) pair, see `data.Examples`; else None.
    """

    init: Callable[..., tuple[PyTree, PyTree]]
    loss: Callable[..., jax.Array]
    ranking: Ranking | None = None
    predict: Callable[..., jax.Array] | None = None

    def through(self, view: Callable, init: Callable | None = None) -> Model:
        """The model every function of which sees `view(shared, private) -> (shared, private)`.
        init: where its parameters lie elsewhere than the inner model's; None for that one's own."""

        def behind(function: Callable) -> Callable:
            @functools.wraps(function)  # an error about it names it
            def seen(shared, private, *rest):
                return function(*view(shared, private), *rest)

            return seen

        ranking = self.ranking and Ranking(
            behind(self.ranking.score), behind(self.ranking.catalogue), behind(self.ranking.context)
        )
        predict = self.predict and behind(self.predict)
        return Model(init or self.init, behind(self.loss), ranking, predict)

    def scorer(self, shared, private, catalogue=None) -> Callable:
        """scorer(history=None) -> score(items, user=0) of one client: its catalogue is made here,
        once, where none is given. Raises ValueError for a model without a ranking."""
        if (ranking := self.ranking) is None:
            raise ValueError(
                "model.score: the model predicts labelled examples and scores no items; measure "
                "it with evaluation.candidates: examples, or give it a ranking."
            )
        ready = ranking.catalogue(shared, private) if catalogue is None else catalogue

        def reading(history=None):
            made = ready, ranking.context(shared, private, history)
            return lambda items, user=0: ranking.score(shared, private, *made, items, user)

        return reading

    def score(self, shared, private, items, user=0, history=None) -> jax.Array:
        """float[len(items)]: scores of one user, for which catalogue and context are made here."""
        return self.scorer(shared, private)(history)(items, user)


@part
class Client:
    """Local work of one client.

    init(key, client) -> private: what the client keeps between rounds.
    update(key, private, shared, data, now) -> (private, Upload): `shared` is the server's pytree,
        never copied; `data` is the client's slice of `Cohort.data`; `now` is what everybody knows
        of the round.
    unsent(before, after) -> private: what a client keeps of a round in which its upload does not
        count (it was late, or a stage held it back), such as a control variate whose change the
        server never saw. None for all of `after`.
    examples: what it trains on, `data.Batches`, by which a run looks at the loss before it begins,
        see `simulate.padding`; None where it does not say.
    """

    init: Callable[..., PyTree]
    update: Callable[..., tuple[PyTree, Upload]]
    unsent: Callable[..., PyTree] | None = None
    examples: Any = None


@part
class Stage:
    """What happens to an upload on its way from a client to the sum, written for one client.

    init(update) -> memory: what a client keeps between rounds; `update` is of the whole model.
    send(key, memory, upload, now) -> (memory, upload): at the client, of which `now.client` is the
        id and `now.cohort` who else takes part. It holds a client back by a weight of 0. A client's
        memory changes only where its upload weighs something and is not rejected.
    receive(key, update, now) -> update: at the server, on what the aggregator made of all uploads;
        refused where nobody sums them.
    """

    send: Callable[..., tuple[PyTree, Upload]]
    init: Callable[..., PyTree] = lambda update: ()
    receive: Callable[..., PyTree] = lambda key, update, now: update


@part
class Compressor:
    """What an update becomes on the wire.

    init(update) -> memory: what a client (or the server) keeps between rounds, e.g. its error.
        `update` is of the whole model: its tables with all of their rows.
    encode(key, memory, update, now) -> (memory, Packet).
    decode(packet, like, now) -> update: `like` gives the structure, shapes and dtypes.
        Both ends know `now`: a schedule, a shared seed or a mask of the model comes from it.
    linear: whether `decode` is linear in the packet's body, all else equal on all clients, so that
        a weighted sum of bodies decodes to the weighted sum of updates.
    omega(update) -> float: of the error, E|C(x) - x|^2 <= omega |x|^2, of updates like this
        outline, or of the parts that know theirs; None where nothing is claimed. Where it is 1 or
        more, what is left out is more than what is sent, and feeding it back is refused.
    complaint(packet, like, now) -> str | None: of a packet that arrived, what no update like this
        outline becomes: a count, a place or a scale; see `compress.opener`. None for no opinion.
    takes_raw: whether it sends nodes inside `wire.Raw` as they are, so that small leaves can be
        kept from it, see `compress.cheaper`. What is made of `nodewise` parts does.
    """

    init: Callable[..., PyTree]
    encode: Callable[..., tuple[PyTree, Packet]]
    decode: Callable[..., PyTree]
    linear: bool = False
    omega: Callable[..., Any] | None = None
    complaint: Callable[..., str | None] | None = None
    takes_raw: bool = False


@part
class Seal:
    """How clients hide what they send from a server that reads nothing but the sum.

    send(key, body, now) -> (Packet, metrics): what a client sends in place of `body`, a tree of
        float arrays; tables stand there with all of their rows. `metrics` are for the simulator.
    down(numbers) -> int: bytes that come down for it beside the model, `numbers` being those of a
        body.
    narrow(summary, packet, now) -> Packet: where clients send two messages, and what the second
        holds hangs on the sum of the first (the rows that enough of them touched), what is sent of
        the second, from the summary of all. Then `body` is an update of whole tables, live where
        the client touched them, `send` gives a pair of packets whose bodies are summed together,
        and `down` counts the rows of tables, down(numbers, rows). None for one message.
    noise: what clients add before they hide, as (`privacy.Shares`, the step of the fixed point);
        None where they add nothing. An accountant reads it.
    """

    send: Callable[..., tuple[Any, dict[str, Array]]]
    down: Callable[..., int]
    narrow: Callable[..., Packet] | None = None
    noise: tuple[Any, float] | None = None


@part
class Aggregator:
    """How uploads become one update.

    init(shared) -> state.
    reduce(state, uploads, now) -> summary: of one chunk, every leaf with a leading axis [c, ...];
        `now.client` has their ids, int32[c]. Padded clients have weight 0 and must not count.
        Tables have their `origin` taken off already unless the aggregator is additive.
    finish(key, state, summary, now) -> (state, update, verdicts): from the summary of all chunks.
        verdicts: None, or float32[n], one for each upload in the order of the stacked summary, and
        0 for those that were rejected: their clients keep memory and private state as they were.
    additive: True where summaries of chunks add up; False where they are stacked (a median), in
        which case `finish` sees the leading axis [n, ...] of all clients, those of all chunks one
        after another; or a dict of either, by the parts of a summary. Lists of rows with ids are
        never added: those of all chunks stand one after another.
    linear: whether each row of a table, and each dense leaf, of the update is a sum of the clients'
        own, whose weights do not depend on what the updates say.
    of: the rule that this one is around, where it only looks on and makes of uploads what that one
        makes, such as `aggregate.with_norms`; else None.
    seal: where clients send something of which `reduce` reads the sum alone, how they do it. Then
        `finish` gives float arrays in place of bodies, see `rounds.uplink`.
    """

    init: Callable[..., PyTree]
    reduce: Callable[..., PyTree]
    finish: Callable[..., tuple[PyTree, PyTree, Array | None]]
    additive: Any = True
    linear: bool = False
    seal: Seal | None = None
    of: Aggregator | None = None


@part
class Server:
    """How the aggregated update changes the server's model.

    init(shared) -> state; apply(state, shared, update) -> (state, shared).
    """

    init: Callable[..., PyTree]
    apply: Callable[..., tuple[PyTree, PyTree]]


@part
class Strategy:
    """One whole federated algorithm.

    init(key, num_clients) -> State.
    round(key, State, Cohort, chunk=None) -> (State, RoundInfo): in chunks of `chunk` clients; None
        for what the strategy was asked for, or a rule of thumb.
    model: what scores `State.shared` and one client's slice of `State.private`.
    packets(key, State, Cohort) -> (Packet, bytes_up): what the cohort would send in this round,
        with leading axes [C, ...], for audits of real bytes; a tuple of Packets where clients send
        several messages; None where nothing is sent up. bytes_up counts each once; the round counts
        it as often as it is sent.
    clients_per_chunk: what was asked for: a number, the bytes that a round may take, such as
        "2GiB", or None; see `rounds.plan`.
    chunk(key, State, Cohort) -> int: the clients of a chunk where `round` is not told, from shapes
        alone; None where the round is not in chunks.
    examples: what clients train on, as `Client.examples` says.
    delayed: whether uploads arrive in later rounds than those that they were sent in, so that the
        bytes up of a round are those of others than its cohort, in the order of arrival.
    together: whether what a client sends hangs on who is beside it, so that `packets` say what a
        round sends of its whole cohort alone.
    uploads(key, State, Cohort) -> update: what the cohort would send in this round if there were
        neither stages nor an uplink, leaves [C, ...]; the truth that attacks are held against. None
        where it is not told.
    opened(State, Packet, id, like) -> update: what the server makes of one client's packet (of all
        of them, a tuple, where it sends several), from what it knows, or of what is between peers,
        who hears them all; `like` is the outline of what `uploads` gives, of one client. None where
        nobody opens packets one by one.
    """

    init: Callable[..., State]
    round: Callable[..., tuple[State, RoundInfo]]
    model: Model
    packets: Callable[..., tuple[Packet | tuple[Packet, ...], jax.Array]] | None = None
    clients_per_chunk: int | str | None = None
    chunk: Callable[..., int] | None = None
    examples: Any = None
    delayed: bool = False
    uploads: Callable[..., PyTree] | None = None
    opened: Callable[..., PyTree] | None = None
    together: bool = False


@dataclass_transform(frozen_default=True)
def record(cls):
    """A frozen dataclass that is a pytree; fields marked `static()` are part of its structure."""
    return jax.tree_util.register_dataclass(dataclass(frozen=True)(cls))


@record
class Upload:
    """What one client hands to the aggregator.

    update: after - before, structured as the trainable part of `shared`.
    weight: float[], the number of examples it stands for; 0 marks padding.
    metrics: dict of arrays about this client that the simulator sees and nobody sends; `loss` is
        the mean over its round.
    aux: dict of arrays that the protocol needs beside the update, such as `steps` or `rank`: sent,
        billed with the packet, seen by stages and aggregators.
    down: uint32[], the bytes that came down, where that is something else than the dense leaves of
        `shared` and the rows in `update`; else None.
    known: what the server knows of this client already, such as its own copy of a control variate.
        Aggregators read it, it is not sent, and no stage or compressor sees it.
    """

    update: PyTree
    weight: Float[Array, "*c"]
    metrics: Any
    aux: Any = field(default_factory=dict)
    down: UInt32[Array, "*c"] | None = None
    known: Any = field(default_factory=dict)


@record
class Packet:
    """One message. `body`: arrays that the next stage may compress further; `side`: indices,
    scales and seeds, shipped as they are; `known`: what the receiver holds already, not sent."""

    body: PyTree
    side: PyTree = ()
    known: PyTree = ()


@record
class Cohort:
    """The clients of one round. ids: int32[C], each once, where `id == num_clients` marks padding;
    data: what those clients hold, one copy for all of them (see `data.Store`).
    stopped: int32[S], all who were sent the model, where some of them were told to stop and are not
    among `ids` (`over_selection`); None where nobody was. mesh: of one axis, over whose devices the
    clients are dealt; None for one device.

    A client that stands in `ids` twice would count twice. Rounds refuse it where the ids are known;
    in a compiled program they are not, and `simulate` looks at the ids that it drew."""

    ids: Int32[Array, " C"]
    data: PyTree
    stopped: Int32[Array, " S"] | None = None
    mesh: Any = field(default=None, metadata={"static": True})


@record
class Now:
    """What everybody knows of a round. round: int32[]. shared: the server's model at its start.
    client: int32[], the client whose turn it is, and cohort: int32[C], the ids of all that take
    part, where there are such. trip: which message of the round it is, where a client sends
    several: what both ends draw from a seed is another in each."""

    round: Int32[Array, ""]
    shared: PyTree
    client: Int32[Array, "*c"] | None = None
    cohort: Int32[Array, " C"] | None = None
    trip: int = field(default=0, metadata={"static": True})


@record
class State:
    """Everything that a run carries from round to round, and all that a checkpoint holds.

    shared: the server's model. private, memory: leaves [N, ...], one slice per client.
    server: state of aggregator, server optimizer and downlink; what stands in `trees.Told` goes to
        the metrics of a run. round: int32[].
    """

    shared: PyTree
    private: PyTree
    memory: PyTree
    server: PyTree
    round: Int32[Array, ""]


@record
class RoundInfo:
    """What a round reports, in the order of `Cohort.ids`; padded clients read 0.

    metrics: leaves [C, ...], as in `Upload`. weight: float[C].
    bytes_up, bytes_down: uint32[C], the bytes of the packets that the client sent and got;
    sum them on the host as Python ints, since 2^32 is soon passed.
    verdicts: float32[C], what the aggregator made of each upload, 0 for those that it rejected; or
    None where it takes all.
    rejected: float32[C], 1 for clients whose round was not finite, who weigh nothing and keep what
    they had, see `rounds.rejected`; None of a strategy that does not look.
    """

    metrics: dict[str, Array]
    weight: Float32[Array, " C"]
    bytes_up: UInt32[Array, " C"]
    bytes_down: UInt32[Array, " C"]
    verdicts: Float32[Array, " C"] | None = None
    rejected: Float32[Array, " C"] | None = None
