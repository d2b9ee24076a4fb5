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
from flax import nnx

from .. import clients, data, models, simulate, strategies, trees
from ..models.transformers.bert import BertSizes, random_bert
from ..models.transformers.layers import stacked
from ..models.transformers.lora import freeze, lora
from ..models.transformers.sentences import Sentence
from ..rounds.cohort import client_keys
from ..rounds.plan import analysed, peak_bytes
from ..types import Client, Cohort, Model, Now, State, Strategy
from .row import Row
from .tables import store

CLIENTS, TEXTS, RANK, EACH = 64, 200, 8, 8
MINILM = BertSizes()
# Texts of a step and tokens of a text.
SHAPES = ((4, 16), (2, 8), (1, 8))
TIMES = 3


class Texts(nnx.Module):
    """Texts that are pushed apart, and along a direction, so that one alone has a gradient too.
    tokens: int32[n, T]."""

    def __init__(self, sizes: BertSizes, tokens: int, rank: int, remat: bool, rngs):
        self.encoder: Any = lora(freeze(random_bert(sizes, rngs)), rngs, rank=rank)
        shape = TEXTS, tokens
        self.tokens = models.Frozen(jax.random.randint(rngs.params(), shape, 0, sizes.vocabulary))
        self.remat = remat

    def vectors(self, items):
        ids, encoder = self.tokens[items], self.encoder
        real = jnp.ones(ids.shape, bool)
        x = stacked(encoder.layers, encoder.embed(ids), real, remat=self.remat)
        return Sentence().pooled(x, real)

    def loss(self, batch, key):
        vectors = self.vectors(batch["items"])
        scores = 10.0 * vectors @ vectors.T
        values = jax.nn.logsumexp(scores, -1) - jnp.diagonal(scores) + vectors.sum(-1)
        return models.masked_mean(values, batch["mask"])

    def score(self, items, user):
        return self.vectors(items).sum(-1)


@dataclass(frozen=True)
class World:
    """Clients that train on `batch` texts of `tokens` tokens, one step a round."""

    sizes: BertSizes = MINILM
    clients: int = CLIENTS
    batch: int = 4
    tokens: int = 16
    rank: int = RANK
    remat: bool = False

    def model(self) -> Model:
        return models.from_nnx(
            lambda rngs: Texts(self.sizes, self.tokens, self.rank, self.remat, rngs)
        )

    def strategy(self, clients_per_chunk: int | str | None = None) -> Strategy:
        return strategies.fedavg(
            self.model(), data.pointwise(0), optimizer=clients.sgd(0.1), steps=1,
            batch_size=self.batch, clients_per_chunk=clients_per_chunk,
        )  # fmt: skip

    def client(self) -> Client:
        return clients.local_training(
            self.model(), data.pointwise(0), clients.sgd(0.1), steps=1, batch_size=self.batch
        )

    def cohort(self) -> Cohort:
        return Cohort(jnp.arange(self.clients), store(self.clients, TEXTS, EACH))

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
            calls["chosen by memory" if c is None else f"{c} at a time"] = one_call(world, state, c)
        seen = seconds(calls, TIMES)
        what = f"{CLIENTS} MiniLM clients, {batch} x {tokens} tokens"
        clocks = ((0, "CPU"), (1, "wall")) if on_cpu else ((1, "wall"),)
        for clock, name in clocks:
            spent = {k: [x[clock] for x in v] for k, v in seen.items()}
            middle = statistics.median(spent["loop"])
            yield row(f"{what}, a loop: {name}", middle * 1e3, "ms", "")
            for how, times in spent.items():
                if how == "loop":
                    continue
                pairs = zip(spent["loop"], times, strict=True)
                ratio = statistics.median(a / b for a, b in pairs)
                goal = f">= {3 if on_cpu else 20}" if how == "chosen by memory" else ""
                yield row(f"{what}, one call, {how}: {name} of the loop over it", ratio, "x", goal)
