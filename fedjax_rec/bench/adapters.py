"""Adapters of many language-model clients in one call, against a Python loop over the clients.

64 clients train LoRA of rank 8 on query and value of an encoder of MiniLM's size (random weights:
they cost what pretrained ones do) for one step on a few short texts. One call is a whole round of
`strategies.fedavg`: batches drawn, trained, averaged. The loop calls the jitted update of one
client after another and reads its loss each time, as a trainer does that logs; it averages nothing.

Memory is XLA's account: what one more client in a chunk takes, over the least that its training
must hold, which `adapter_bytes` and `activation_bytes` count.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from .. import clients, data, models, simulate, strategies, trees
from ..models.transformers.bert import BertSizes
from ..rounds.cohort import client_keys
from ..rounds.plan import analysed, peak_bytes
from ..types import Client, Cohort, Model, Now, State, Strategy
from .row import Row
from .tables import store
from .texts import TEXTS, Texts, catalogue, one_sequence

CLIENTS, RANK, EACH = 64, 8, 8
MINILM = BertSizes()
# Texts of a step and tokens of a text.
SHAPES = ((4, 16), (2, 8), (1, 8))
TIMES = 3


@dataclass(frozen=True)
class World:
    """Clients that train on `batch` texts of `tokens` tokens, one step a round.

        adapted: the last layers, that have adapters; None for all. once: what goes into them is
        computed when the model is made. varied: texts are of different lengths, and a client has no
    more than `batch` of them. packed: these share one sequence. rate: of SGD.
    """

    sizes: BertSizes = MINILM
    clients: int = CLIENTS
    batch: int = 4
    tokens: int = 16
    rank: int = RANK
    remat: bool = False
    adapted: int | None = None
    once: bool = False
    varied: bool = False
    packed: bool = False
    rate: float = 0.1

    def model(self) -> Model:
        adapted = self.adapted or self.sizes.layers
        ids, long = catalogue(self.sizes, self.tokens, self.varied)
        return models.from_nnx(
            lambda rngs: Texts(
                self.sizes, adapted, self.once, ids, long, self.rank, self.remat, rngs
            )
        )

    def strategy(self, clients_per_chunk: int | str | None = None) -> Strategy:
        return strategies.fedavg(
            self.model(), self.batches(), optimizer=clients.sgd(self.rate), steps=1,
            batch_size=1 if self.packed else self.batch, clients_per_chunk=clients_per_chunk,
        )  # fmt: skip

    def client(self) -> Client:
        return clients.local_training(
            self.model(), self.batches(), clients.sgd(self.rate), steps=1,
            batch_size=1 if self.packed else self.batch,
        )  # fmt: skip

    def batches(self) -> data.Batches:
        return data.examples() if self.packed else data.pointwise(0)

    def cohort(self) -> Cohort:
        held = store(self.clients, TEXTS, self.batch if self.varied else EACH)
        if self.packed:
            items = np.asarray(held.items).reshape(self.clients, -1)
            held = one_sequence(items, catalogue(self.sizes, self.tokens, self.varied)[1])
        return Cohort(jnp.arange(self.clients), held)

    def adapter_bytes(self) -> int:
        """What a client trains."""
        return trained_bytes(self.model())

    def activation_bytes(self) -> int:
        """What the backward pass must have of the forward one, in float32. Of a token in a layer:

        D of what goes in, 3 D of query, key and value, H T of the attention's weights, 2 r of x A,
        D and 1 of each norm, and F of what goes into the activation; nothing of what goes into
        frozen layers, whose weights have no gradient. With `remat`, D a layer, and one layer.
        """
        s = self.sizes
        layer = 6 * s.width + s.hidden + s.heads * self.tokens + 2 * self.rank + 2
        kept = s.layers * s.width + layer if self.remat else s.layers * layer
        return 4 * self.batch * self.tokens * kept


@dataclass(frozen=True)
class Account:
    """Bytes of a round, by XLA. each: what one more client in a chunk takes. fixed: the peak
    without any client. alone: temporaries without any client. base: the frozen part of the model.
    arguments: all that goes in. fresh: what comes out in memory of its own."""

    each: int
    fixed: int
    alone: int
    base: int
    arguments: int
    fresh: int


def trained_bytes(model: Model) -> int:
    """Of the shared part of a model, what is no frozen base."""
    shared = jax.eval_shape(model.init, jax.random.key(0))[0]
    return trees.nbytes(trees.trainable(shared))


class Trained(Protocol):
    """Clients that train something in a round."""

    @property
    def clients(self) -> int: ...
    def strategy(self, clients_per_chunk: int | None = None) -> Strategy: ...
    def cohort(self) -> Cohort: ...


def account(world: Trained, chunks: Sequence[int] = (1, 2)) -> Account:
    """From rounds in two sizes of `chunks`."""
    cohort = world.cohort()
    state = jax.eval_shape(lambda: world.strategy().init(jax.random.key(0), world.clients))
    a, b = (analysed(world.strategy(c).round, jax.random.key(0), state, cohort) for c in chunks)
    each = (peak_bytes(b) - peak_bytes(a)) // (chunks[1] - chunks[0])
    return Account(
        each,
        peak_bytes(a) - chunks[0] * each,
        a.temp_size_in_bytes - chunks[0] * each,
        trees.nbytes(trees.frozen(state.shared)),
        a.argument_size_in_bytes,
        a.output_size_in_bytes - a.alias_size_in_bytes,
    )


def one_call(world: World, state: State, clients_per_chunk: int | None = None) -> Callable[[], Any]:
    """A round of all clients, () -> (shared, losses)."""
    step, cohort = jax.jit(world.strategy(clients_per_chunk).round), world.cohort()

    def call():
        after, info = step(jax.random.key(0), state, cohort)
        return after.shared, jax.device_get(info.metrics["loss"])

    return call


def loop(world: World, state: State) -> Callable[[], Any]:
    """The same clients one after another, () -> (their updates, losses)."""
    cohort, client = world.cohort(), world.client()
    now = Now(state.round, state.shared)
    update = jax.jit(lambda key, shared, mine: client.update(key, {}, shared, mine, now)[1])
    taken = [cohort.data.take(jnp.int32([i])) for i in range(world.clients)]
    mine = [replace(t, id=t.id[0], start=t.start[0], length=t.length[0]) for t in taken]
    of_clients = client_keys(jax.random.key(0), state.round)
    keys = [of_clients.train(jnp.int32(i)) for i in range(world.clients)]

    def call():
        updates, losses = [], []
        for key, one in zip(keys, mine, strict=True):
            upload = update(key, state.shared, one)
            losses.append(float(upload.metrics["loss"]))
            updates.append(upload.update)
        return updates, losses

    return call


def seconds(calls: dict[str, Callable[[], Any]], times: int) -> dict[str, list[tuple]]:
    """(CPU, wall) seconds of each call, `times` over, in turns, after one that compiles."""
    for call in calls.values():
        jax.block_until_ready(call())
    seen: dict[str, list[tuple]] = {name: [] for name in calls}
    for _ in range(times):
        for name, call in calls.items():
            cpu, wall = time.process_time(), time.perf_counter()
            jax.block_until_ready(call())
            seen[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return seen


def adapters() -> Iterator[Row]:
    simulate.configure(1, cache=None)
    on_cpu = jax.default_backend() == "cpu"
    row = partial(Row, "adapters")
    for remat in (False, True):
        world = World(remat=remat)
        found = account(world)
        least = world.adapter_bytes() + world.activation_bytes()
        what = "one more MiniLM client, 4 texts of 16 tokens" + ", remat" * remat
        yield row(f"{what}: temporary", found.each / 2**20, "MiB", "")
        goal = "" if remat else "<= 1.5"
        yield row(f"{what}: over adapters and activations", found.each / least, "x", goal)
        if not remat:
            bases = (found.arguments + found.fresh + found.alone) / found.base
            yield row("all memory without clients, over the base", bases, "x", "< 2")
    for batch, tokens in SHAPES:
        world = World(batch=batch, tokens=tokens)
        state = world.strategy().init(jax.random.key(0), CLIENTS)
        sizes = (None, 1, 4, 16, CLIENTS) if (batch, tokens) == SHAPES[0] else (None, 16)
        calls: dict[str, Callable] = {"loop": loop(world, state)}
        for c in sizes:
            name = "chosen by memory" if c is None else f"{c} at a time"
            calls[f"one call, {name}"] = one_call(world, state, c)
        seen = seconds(calls, TIMES)
        what = f"{CLIENTS} MiniLM clients, {batch} x {tokens} tokens"
        goals = {"one call, chosen by memory": f">= {3 if on_cpu else 20}"}
        for name in ("CPU", "wall") if on_cpu else ("wall",):
            yield from ratios(what, seen, name, goals, "adapters")


def ratios(
    what: str, seen: dict[str, list[tuple]], name: str, goals: dict[str, str], bench: str
) -> Iterator[Row]:
    """The milliseconds of the loop by the clock `name`, CPU or wall, and of all else how many times
    faster it is."""
    clock = ("CPU", "wall").index(name)
    spent = {k: [x[clock] for x in v] for k, v in seen.items()}
    middle = statistics.median(spent["loop"])
    yield Row(bench, f"{what}, a loop: {name}", middle * 1e3, "ms", "")
    for how, times in spent.items():
        if how != "loop":
            ratio = statistics.median(a / b for a, b in zip(spent["loop"], times, strict=True))
            text = f"{what}, {how}: {name} of the loop over it"
            yield Row(bench, text, ratio, "x", goals.get(how, ""))
