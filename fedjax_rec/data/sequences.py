"""What the next item is after each of a user's items: one example a user, for sequential models.

    inputs  i_1 i_2 ... i_L      targets  i_2 i_3 ... i_{L+1},      in the order of time

A window of L + 1 training items of the user. A shorter history stands at the right: the places
before it are not `real` and repeat its first item, so that padding touches no row of its own.
"""

from __future__ import annotations

import jax.numpy as jnp

from ..check import at_least, one_of
from ..keys import below, mix
from .batches import Batches, bits_of
from .negative_draws import NegativeDraws
from .store import ClientData

WINDOWS = ("random", "last")


def sequences(
    length: int = 50,
    negatives: int = 0,
    window: str = "random",
    each: bool = False,
    exclude: bool = True,
    drawn: NegativeDraws | None = None,
) -> Batches:
    """What the next item is after each of L items of a user: one example a user.

    Args:
        length: `L`.
        negatives: `n`. Those of an example serve all of its places, and losses let the examples of
            a batch share theirs.
        window: `last`, the user's last items; or `random`, by the round's seed, such that each item
            is in the window at least as often as in the mean (the last ones are more often).
        each: every place has n negatives of its own, as in the paper of SASRec.
        exclude: draw them outside the user's items, see `pack(negatives=)`; else from all items.
        drawn: how they are drawn, such as `popular_negatives()`; default evenly, as `exclude` says.

    Returns:
        `Batches` of `inputs`, `targets` int32[B, L] and `real` float32[B, L], 1 where there is an
        input and its target; `negatives` int32[B, n], or [B, L, n] with `each`, and where they
        are `drawn`, `log_q` float32 of that shape; `users` where a client holds several. Users
        with one training item have no example.

    Raises:
        ValueError: for length < 1, negatives < 0, an unknown window and, in the round, for data
            that do not say where a user's interactions lie.

    Example:
        >>> batches = data.sequences(length=10, negatives=8)
        >>> strategy = strategies.fedavg(models.sasrec(num_items, width=8, length=10), batches)
    """
    at_least("sequences", "length", length, 1)
    at_least("sequences", "negatives", negatives, 0)
    one_of("sequences", "window", window, WINDOWS)
    n = negatives * (length if each else 1)

    def count(data):
        spans = spans_in(data)
        if spans is None:
            return (data.length > 1).astype(jnp.int32)
        return spans.count[data.id]

    def longest(data):
        return data.most_users if spans_in(data) is not None else jnp.minimum(data.longest, 1)

    def draw(seed, data, q):
        store, spans = data.store, spans_in(data)
        if spans is None:
            start, size = (jnp.broadcast_to(x, q.shape) for x in (data.start, data.length))
            owner = jnp.broadcast_to(data.id, q.shape)
        else:
            place = spans.begin[data.id] + q.astype(jnp.int32)
            start, size = (x.at[place].get(mode="clip") for x in (spans.start, spans.length))
            owner = store.owners.at[start].get(mode="clip")
        end = size
        if window == "random":
            # Ends beyond the last item mean the last window.
            end = 1 + below(bits_of(seed, q), size + length)
            end = jnp.clip(end, jnp.minimum(size, length + 1), size)
        inputs = end[:, None] - 1 - length + jnp.arange(length)
        real = inputs >= 0
        at = start[:, None] + jnp.maximum(inputs, 0)
        batch = {
            "inputs": store.items.at[at].get(mode="clip"),
            "targets": store.items.at[at + real].get(mode="clip"),
            "real": real.astype(jnp.float32),
        }
        if n:
            bits = bits_of(mix(seed + 1), q[:, None] * n + jnp.arange(n, dtype=jnp.uint32))
            shape = (-1, length, negatives) if each else (-1, negatives)
            if drawn is not None:
                items = drawn.pick(store, bits)
                batch["log_q"] = drawn.log_q(store, items).reshape(shape)
            elif exclude:
                items = store.exclusion.pick(owner[:, None], bits)
            else:
                items = below(bits, jnp.int32(store.num_items))
            batch["negatives"] = items.reshape(shape)
        if spans is not None:
            batch["users"] = store.users.at[start].get(mode="clip")
        return batch

    ids = {"inputs": length, "targets": length} | ({"negatives": n} if n else {})
    most = lambda store: 1 if store.spans is None else store.spans.most
    return Batches(count, most, draw, ids, length, longest)


def spans_in(data: ClientData):
    """The spans of the store of `data`, None where each client is one user."""
    store = data.store
    if store.spans is None and store.owners is not None:
        raise ValueError(
            "sequences(): the store does not say where its users' items lie; make it by pack(), "
            "and take all of its interactions."
        )
    return store.spans
