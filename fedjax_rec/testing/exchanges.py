"""The laws of an exchange of models, and of the graph behind one: who is away keeps its model, what
is sent is got, and every model is a mean of models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ..rounds.exchange import Exchange
from ..rounds.graphs import Graph
from .laws import KEY, Kind, check, close, expect, same_bits, traced_once
from .programs import keys_once

CLIENTS = 6
WEIGHTS = jnp.float32([3, 0, 2, 5, 0, 1])
MODELS = {
    "item": jnp.float32(np.random.default_rng(0).normal(size=(CLIENTS, 4, 3))),
    "bias": jnp.arange(CLIENTS, dtype=jnp.float32),
}


@dataclass(frozen=True)
class Exchanging:
    part: Exchange
    mix: Callable


def _bench(exchange: Exchange) -> Exchanging:
    return Exchanging(exchange, traced_once(exchange.mix))


def _mixed(this: Exchanging, round: int = 0, weight=WEIGHTS, models=MODELS):
    return this.mix(KEY, jnp.int32(round), weight, models)


def who_is_away_keeps_its_model(this: Exchanging) -> None:
    """A client of weight 0 keeps its model to the bit, sends nothing and gets nothing."""
    away = np.asarray(WEIGHTS) == 0
    for t in range(3):
        models, sent, got = _mixed(this, t)
        same_bits(*(jax.tree.map(lambda x: x[away], m) for m in (models, MODELS)))
        expect(not np.asarray(sent)[away].any() and not np.asarray(got)[away].any(),
               f"they sent {sent} and got {got}")  # fmt: skip


def who_is_away_does_not_count(this: Exchanging) -> None:
    """Nobody's model depends on that of a client of weight 0."""
    away = np.asarray(WEIGHTS) == 0
    other = jax.tree.map(lambda x: x + 100.0 * away.reshape(-1, *[1] * (x.ndim - 1)), MODELS)
    here, there = (
        jax.tree.map(lambda x: x[~away], _mixed(this, models=m)[0]) for m in (MODELS, other)
    )
    close(there, here)


def what_is_sent_is_got(this: Exchanging) -> None:
    """sent and got are uint32[N]; to and from clients or, once each, the server."""
    for t in range(3):
        _, sent, got = _mixed(this, t)
        for count in (sent, got):
            expect(
                count.shape == (CLIENTS,) and count.dtype == jnp.uint32,
                f"{count.dtype}{list(count.shape)}",
            )
        expect(int(sent.sum()) == int(got.sum()), f"{int(sent.sum())} sent, {int(got.sum())} got")


def models_stay_between_the_models(this: Exchanging) -> None:
    """Each model is a mean of those of who is there: between the least and the largest number."""
    there = np.asarray(WEIGHTS) > 0
    for t in range(3):
        models, _, _ = _mixed(this, t)
        for x, y in zip(jax.tree.leaves(MODELS), jax.tree.leaves(models), strict=True):
            x, y = np.asarray(x)[there], np.asarray(y)[there]
            expect((y <= x.max(0) + 1e-5).all() and (y >= x.min(0) - 1e-5).all(), "some do not")


def equal_models_stay(this: Exchanging) -> None:
    """Where all hold one model, all hold it afterwards."""
    alike = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), MODELS)
    close(_mixed(this, models=alike)[0], alike)


def a_key_gives_the_same_bits(this: Exchanging) -> None:
    """A function of its arguments, and one trace serves all rounds."""
    same_bits(_mixed(this), _mixed(this))


def keys_are_consumed_once(this: Exchanging) -> None:
    """No two draws use one key."""
    keys_once(lambda key: this.part.mix(key, jnp.int32(0), WEIGHTS, MODELS), KEY)


EXCHANGE = Kind(
    "exchange",
    _bench,
    (
        who_is_away_keeps_its_model, who_is_away_does_not_count, what_is_sent_is_got,
        models_stay_between_the_models, equal_models_stay, a_key_gives_the_same_bits,
        keys_are_consumed_once,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Mixing:
    part: Graph
    clients: tuple[int, ...]
    symmetric: bool


def _graph(graph: Graph, *, clients=(1, 2, 5, 12), symmetric: bool = True) -> Mixing:
    return Mixing(graph, tuple(clients), symmetric)


def weights_are_a_mean(this: Mixing) -> None:
    """mixing(N) is float64[N, N], not negative, and its rows sum to 1."""
    for n in this.clients:
        w = this.part.mixing(n)
        expect(w.shape == (n, n) and w.dtype == np.float64, f"{w.dtype}{list(w.shape)} of {n}")
        expect((w >= -1e-12).all(), f"the least of {n} is {w.min():.3g}")
        expect(np.allclose(w.sum(1), 1), f"the rows of {n} sum to {w.sum(1)}")


def the_mean_is_kept(this: Mixing) -> None:
    """Columns sum to 1 unless symmetric=False is said: mixing does not move the mean."""
    for n in this.clients if this.symmetric else ():
        w = this.part.mixing(n)
        expect(np.allclose(w, w.T), f"that of {n} clients is not symmetric")


def it_is_the_same_every_time(this: Mixing) -> None:
    """mixing(N) is a function of N."""
    for n in this.clients:
        expect((this.part.mixing(n) == this.part.mixing(n)).all(), f"{n} clients have two")


GRAPH = Kind("graph", _graph, (weights_are_a_mean, the_mean_is_kept, it_is_the_same_every_time))


def check_exchange(exchange: Exchange) -> None:
    """Holds the laws of exchanges against one, of 6 clients.

    Args:
        exchange: the part.

    Raises:
        AssertionError: a law is broken; the line says which, and what came.

    Example:
        testing.check_exchange(strategies.gossip(strategies.ring()))
    """
    check(EXCHANGE, exchange)


def check_graph(
    graph: Graph, *, clients: tuple[int, ...] = (1, 2, 5, 12), symmetric: bool = True
) -> None:
    """Holds the laws of graphs against one.

    Args:
        graph: the part.
        clients: numbers of clients that it is asked for.
        symmetric: whether W = W^T, which keeps the mean of the models where it is.

    Raises:
        AssertionError: a law is broken; the line says which, and what came.

    Example:
        testing.check_graph(strategies.exponential(), symmetric=False)
    """
    check(GRAPH, graph, clients=clients, symmetric=symmetric)
