"""The laws of a whole strategy: chunks, order and padding change nothing, who is away is left
alone, bytes are those of the packets, and a run goes on to the same bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import data, rows, wire
from ..data import Batches, Dataset
from ..types import Cohort, Model, RoundInfo, State, Strategy
from . import worlds
from .laws import KEY, Kind, check, close, compiled, expect, finite, same_bits, traced_once
from .programs import drawn_once, keys_once, no_copies


@dataclass(frozen=True)
class Playing:
    """A strategy with one compiled round for all laws, of a cohort of as many places as clients.

    cohorts: of `rounds` rounds: everybody, then some in some order among padding, by turns.
    states, infos: before each of those rounds, and after it.
    """

    part: Strategy
    inner: Model
    data: Dataset
    step: Callable[..., tuple[State, RoundInfo]]
    cohorts: list[Any]
    states: list[State]
    infos: list[RoundInfo]
    learns: bool
    reorders: bool
    several: bool
    follows: bool

    @cached_property
    def program(self):
        """A round, traced, with all clients in one chunk."""
        cohort = Cohort(jnp.asarray(self.cohorts[0]), self.data.store)
        kwargs = {} if self.part.chunk is None else {"chunk": self.data.num_clients}
        play = lambda key, state: self.part.round(key, state, cohort, **kwargs)
        return jax.make_jaxpr(play)(KEY, self.states[0]).jaxpr

    def round(self, state: State, ids, key=KEY) -> tuple[State, RoundInfo]:
        return self.step(key, state, Cohort(jnp.asarray(ids, jnp.int32), self.data.store))


def _bench(
    strategy: Strategy | Callable[..., Strategy],
    *,
    model: Model | None = None,
    examples: Batches | None = None,
    dataset: Dataset | None = None,
    rounds: int = 8,
    learns: bool = True,
    reorders: bool = True,
    several: bool = False,
    follows: bool = False,
) -> Playing:
    found = dataset or worlds.interactions()
    model = model or worlds.toy_model(found.num_items, found.members)
    if not isinstance(strategy, Strategy):
        strategy = strategy(model, examples or data.pointwise(4))
    made, count = strategy, found.num_clients
    step = traced_once(lambda key, state, cohort: made.round(key, state, cohort))
    draw, cohorts = np.random.default_rng(0), []
    for t in range(rounds):
        ids = draw.permutation(count)
        if t % 2:
            ids[count // 2 :] = count
        cohorts.append(np.asarray(draw.permutation(ids), np.int32))
    begin = made.init(KEY, count)
    told = learns, reorders, several, follows
    this = Playing(made, model, found, step, cohorts, [begin], [], *told)
    for ids in cohorts:
        state, info = this.round(this.states[-1], ids)
        this.states.append(state)
        this.infos.append(info)
    return this


def one_trace_serves_all_rounds(this: Playing) -> None:
    """A run is one program: state keeps its structure, shapes and dtypes."""
    # The set-up has played `rounds` rounds by one trace, or raised.
    outline = lambda state: jax.tree.map(lambda x: (x.shape, x.dtype), state)
    expect(outline(this.states[-1]) == outline(this.states[0]), "it does not")


def it_stays_finite_and_learns(this: Playing) -> None:
    """No NaN or infinity, and the loss of everybody is lower in the end."""
    finite(this.states[-1])
    finite([info.metrics["loss"] for info in this.infos])
    losses = [float((i.metrics["loss"] * i.weight).sum() / i.weight.sum()) for i in this.infos[::2]]
    expect(
        not this.learns or losses[-1] < losses[0],
        f"it is {losses[0]:.4f} at first and {losses[-1]:.4f} after {len(this.infos)} rounds",
    )


def who_is_away_is_left_alone(this: Playing) -> None:
    """Private state and memory of clients outside the cohort are the same bits."""
    count = this.data.num_clients
    kept = lambda state: (() if this.follows else state.private, state.memory)
    for ids, before, after in zip(this.cohorts, this.states[:-1], this.states[1:], strict=True):
        away = np.setdiff1d(np.arange(count), ids)
        of = lambda state, away=away: [
            x[away] for x in jax.tree.leaves(kept(state))
            if x.ndim and x.shape[0] == count
        ]  # fmt: skip
        same_bits(of(after), of(before))


def padding_reads_zero(this: Playing) -> None:
    """Places of nobody weigh nothing and send and get no bytes."""
    for ids, info in zip(this.cohorts, this.infos, strict=True):
        nobody = ids == this.data.num_clients
        for name in ("weight", "bytes_down", *(() if this.part.delayed else ("bytes_up",))):
            expect(not np.asarray(getattr(info, name))[nobody].any(), f"{name} of padding is not 0")


def a_round_of_nobody_moves_nothing(this: Playing) -> None:
    """Where the whole cohort is padding, the model and what clients keep are the same bits: the
    server's momentum does not go on, and nothing that it remembers is paid out."""
    if this.part.delayed:
        return  # what is on its way arrives
    before = this.states[-1]
    after, info = this.round(before, np.full_like(this.cohorts[0], this.data.num_clients))
    expect(not np.asarray(info.weight).any(), "somebody weighs something")
    parts = lambda state: (state.shared, state.private, state.memory, state.server)
    same_bits(parts(after), parts(before))


def the_order_of_the_cohort_changes_nothing(this: Playing) -> None:
    """The same clients in other places, among padding, make the same round."""
    if not this.reorders:
        return
    ids, turned = this.cohorts[1], np.random.default_rng(1).permutation(len(this.cohorts[1]))
    (a, info), (b, other) = (this.round(this.states[1], x) for x in (ids, ids[turned]))
    if this.part.delayed:
        other, info = (replace(each, bytes_up=np.zeros_like(ids)) for each in (other, info))
    close(b, a, rtol=1e-4, atol=1e-5)
    close(other, jax.tree.map(lambda x: x[turned], info), rtol=1e-4, atol=1e-5)


def chunks_change_nothing(this: Playing) -> None:
    """Where clients are played in chunks, their number is a matter of speed."""
    if this.part.chunk is None:
        return
    cohort = Cohort(jnp.asarray(this.cohorts[0]), this.data.store)
    chunk = 3 if this.part.chunk(KEY, this.states[0], cohort) == 2 else 2
    made = compiled(partial(this.part.round, chunk=chunk))(KEY, this.states[0], cohort)
    close(made, (this.states[1], this.infos[0]), rtol=1e-4, atol=1e-5)


def a_run_goes_on_to_the_same_bits(this: Playing) -> None:
    """State holds all that a run carries: from a checkpoint, through NumPy, it goes on as it
    went; and a key gives the same bits."""
    half = len(this.cohorts) // 2
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    state = jax.tree.map(
        lambda x: x if is_key(x) else jnp.array(np.array(x, copy=True)), this.states[half]
    )
    for ids in this.cohorts[half:]:
        state, _ = this.round(state, ids)
    same_bits(state, this.states[-1])


def bytes_are_those_of_the_packets(this: Playing) -> None:
    """What a round counts for a client is the length of the message it sends."""
    if this.part.packets is None:
        return
    ids = np.asarray(this.cohorts[0])
    cohort = Cohort(jnp.asarray(ids), this.data.store)
    packets, ledger = jax.device_get(compiled(this.part.packets)(KEY, this.states[0], cohort))
    counted, weighs = np.asarray(this.infos[0].bytes_up), np.asarray(this.infos[0].weight) > 0
    for k, id in enumerate(ids):
        messages = packets if isinstance(packets, tuple) else (packets,)
        sent = sum(len(wire.to_bytes(jax.tree.map(lambda x, k=k: x[k], m))) for m in messages)
        expect(sent == ledger[k], f"client {id} sends {sent} bytes and packets say {ledger[k]}")
        expect(
            this.part.delayed
            or not weighs[k]
            or counted[k] == sent
            or (this.several and counted[k] % sent == 0),
            f"client {id} sends {sent} bytes and the round counts {counted[k]}",
        )


def keys_are_consumed_once(this: Playing) -> None:
    """No two draws use one key, at the start and in a round."""
    keys_once(lambda key: this.part.init(key, this.data.num_clients), KEY)
    drawn_once(this.program)


def no_table_is_copied(this: Playing) -> None:
    """Nothing in a round is as large as clients times a table's rows times its width, but what
    clients keep and what is kept of them."""
    start, count, store = this.states[0], this.data.num_clients, this.data.store
    kept = {x.shape for x in jax.tree.leaves((start.private, start.memory, start.server))}
    shapes = {t.shape for t in rows.tables(start.shared) if 8 * store.longest < t.shape[0]}
    no_copies(this.program, count, {shape for shape in shapes if (count, *shape) not in kept})


def its_model_is_the_model(this: Playing) -> None:
    """`Strategy.model` scores and predicts what its model does: nothing is lost in a wrapper."""
    outer, inner, state = this.part.model, this.inner, this.states[0]
    for name in ("ranking", "predict"):
        had, has = (getattr(m, name) is not None for m in (inner, outer))
        expect(had == has, f"the model has {'a' if had else 'no'} {name} and strategy.model has "
               f"{'one' if has else 'none'}; wrap it by model.through(view)")  # fmt: skip
    private = jax.tree.map(lambda x: x[0], state.private)
    plain = jax.eval_shape(inner.init, KEY)
    alike = jax.tree.structure((state.shared, private)) == jax.tree.structure(plain)
    if inner.ranking is None or outer.ranking is None:
        return
    items = jnp.int32([2, 0, 5])
    told = [
        compiled(lambda shared, private, m=m: m.score(shared, private, items))(
            state.shared, private
        )
        for m in ((outer, inner) if alike else (outer,))
    ]
    finite(told)
    expect(told[0].shape == items.shape, f"3 items have scores {list(told[0].shape)}")
    if alike:
        close(*told, rtol=1e-4, atol=1e-5)


# The quick ones first.
STRATEGY = Kind(
    "strategy",
    _bench,
    (
        one_trace_serves_all_rounds, it_stays_finite_and_learns, who_is_away_is_left_alone,
        padding_reads_zero, a_round_of_nobody_moves_nothing, its_model_is_the_model,
        a_run_goes_on_to_the_same_bits,
        the_order_of_the_cohort_changes_nothing, keys_are_consumed_once, no_table_is_copied,
        bytes_are_those_of_the_packets, chunks_change_nothing,
    ),
)  # fmt: skip


def check_strategy(
    strategy: Strategy | Callable[..., Strategy],
    *,
    model: Model | None = None,
    examples: Batches | None = None,
    dataset: Dataset | None = None,
    rounds: int = 8,
    learns: bool = True,
    reorders: bool = True,
    several: bool = False,
    follows: bool = False,
) -> None:
    """Holds the laws of strategies against one.

    Args:
        strategy: the part; or make(model, examples) -> Strategy, as recipes are.
        model: what it trains; None for a toy with a leaf of each kind.
        examples: what an example is; None for `data.pointwise(4)`.
        dataset: packed data that the model is of; None for 7 clients with 211 items.
        rounds: in which the loss of everybody must fall, an even number of at least 4.
        learns: False where it does not train what is measured as `loss`.
        reorders: False where a round draws lots by place.
        several: True where a client's message may go to several others, or to none.
        follows: True where who is away gets what others have learned, as from a server that holds
            all users' vectors.

    Raises:
        AssertionError: a law is broken; the line says which, and what came.

    Example:
        testing.check_strategy(partial(strategies.fedavg, optimizer=clients.sgd(0.5)))
    """
    check(
        STRATEGY, strategy, model=model, examples=examples, dataset=dataset, rounds=rounds,
        learns=learns, reorders=reorders, several=several, follows=follows,
    )  # fmt: skip
