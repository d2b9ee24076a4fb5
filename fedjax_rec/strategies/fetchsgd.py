"""FetchSGD: clients send one sketch of their whole update, the server does all the remembering.

    S = mean_k sketch(u_k);   S_u <- rho S_u + S;   S_e <- S_e + eta S_u
    D = top_k(estimates of S_e);   S_e <- S_e - sketch(D);   x <- x + D

(Rothchild et al., ICML 2020, algorithm 1, with the update of a client in place of its negative
gradient.) Momentum and error live in the sketch, so clients keep nothing between rounds, and may
take part once. Clients send the same rows * columns numbers whatever the model and whatever they
touched.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .. import check
from ..check import at_least, below, fraction, positive
from ..compress.remembered import nodes, values_of, with_values
from ..compress.sketch import coordinates, estimate, hash_words, sketch
from ..data import Batches
from ..rounds.downlink import live_where_it_moves
from ..rows import RowsUpdate, zero_update
from ..servers.step import step
from ..types import Compressor, Model, Packet, PyTree, Server, Strategy
from .fedavg import fedavg


def fetch_sgd(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    keep: int,
    rows: int = 5,
    columns: int = 10_000,
    momentum: float = 0.9,
    learning_rate: float = 1.0,
    seed: int = 0,
    **kwargs,
) -> Strategy:
    """FetchSGD of sketches [rows, columns], of which the server takes the `keep` largest numbers.

    Wire: 32 * rows * columns bits a client, and no ids.
    Arguments that are not named here are those of `fedavg`.

    Args:
        keep: k of top_k, coordinates that a round changes.
        rows: hash functions of the sketch.
        columns: numbers a row of it.
        momentum: rho.
        learning_rate: eta.
        seed: of the hashes, which stay the same for the whole run.
        kwargs: as in `fedavg`, without `uplink` and `server`; the aggregator has to be a weighted
            mean of arrays (`aggregate.mean()` or `uniform()`), since what arrives is no table any
            more.

    Raises:
        ValueError: for keep, rows or columns < 1, momentum outside [0, 1), learning_rate <= 0, and
            no seed of 32 bits.

    Example:
        >>> strategy = strategies.fetch_sgd(model, data.pointwise(4), keep=50, columns=500)
    """
    check.seed("fetch_sgd", seed)
    for name, value in (("keep", keep), ("rows", rows), ("columns", columns)):
        at_least("fetch_sgd", name, value, 1)
    positive("fetch_sgd", "learning_rate", learning_rate)
    fraction("fetch_sgd", "momentum", momentum)
    below("fetch_sgd", "momentum", momentum, 1)
    server = unsketching(rows, columns, seed, keep, momentum, learning_rate)
    uplink = sketching(rows, columns, seed)
    return fedavg(model, examples, probe, uplink=uplink, server=server, **kwargs)


def sketching(rows: int, columns: int, seed: int) -> Compressor:
    """One sketch of all nodes of an update together. What is decoded is the sketch itself: the
    server unsketches the mean."""

    def encode(key, memory, update, now):
        where = _places(update)
        x = [v.reshape(-1).astype(jnp.float32) for v in values_of(update)]
        words = hash_words(seed, 0, rows)
        return memory, Packet(sketch(jnp.concatenate(x), where, words, columns))

    return Compressor(lambda update: (), encode, lambda packet, like, now: packet.body)


def unsketching(
    rows: int, columns: int, seed: int, keep: int, momentum: float, learning_rate: float
) -> Server:
    """Momentum and error in a sketch; the `keep` largest estimates move the model."""
    add = step(1.0)

    def init(shared):
        size = sum(v.size for v in values_of(zero_update(shared)))
        if keep > size:
            raise ValueError(
                f"fetch_sgd(keep={keep}) is more than the model has; use keep <= {size}."
            )
        empty = jnp.zeros((rows, columns))
        return {"momentum": empty, "error": empty}

    def apply(state, shared, update):
        words = hash_words(seed, 0, rows)
        moved = momentum * state["momentum"] + update
        error = state["error"] + learning_rate * moved
        like = zero_update(shared)
        blank = values_of(like)
        guessed = estimate(error, jnp.arange(sum(v.size for v in blank), dtype=jnp.uint32), words)
        chosen = jax.lax.top_k(jnp.abs(guessed), keep)[1]
        change = guessed[chosen]
        error = error - sketch(change, chosen.astype(jnp.uint32), words, columns)
        pieces = _divided(jnp.zeros_like(guessed).at[chosen].set(change), blank)
        moves = live_where_it_moves(with_values(like, pieces))
        return {"momentum": moved, "error": error}, add.apply((), shared, moves)[1]

    return Server(init, apply)


def _places(update: PyTree) -> jax.Array:
    """uint32: the number in the whole model of each coordinate of `update`."""
    places, first = [], 0
    for node in nodes(update):
        places.append(coordinates(node).reshape(-1) + jnp.uint32(first))
        if isinstance(node, RowsUpdate):
            first += node.size * (node.values.size // max(1, node.values.shape[0]))
        else:
            first += node.size
    return jnp.concatenate(places)


def _divided(x: jax.Array, like: list) -> list:
    """The numbers of the whole model, as one array a node."""
    ends = []
    for v in like:
        ends.append(v.size + (ends[-1] if ends else 0))
    parts = jnp.split(x, ends[:-1])
    return [part.reshape(v.shape) for part, v in zip(parts, like, strict=True)]
