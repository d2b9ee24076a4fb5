"""What a client's examples are, and how one batch of them is made inside jit.

An epoch of a client is a list of `count(data)` examples that is never laid out: example number
`q` is computed from `q` and the round's seed. So negatives are drawn anew each round, a batch is
a few integer operations, and two calls with the same seed give the same examples.

A batch is a dict of arrays [B, ...]: `items`, `labels`, and `users` (index inside the client)
where a client holds several users.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ..check import at_least
from ..keys import mix
from ..made import part
from .store import ClientData, Store


@part
class Batches:
    """count(data) -> int32[]: examples of one client in an epoch.
    most(store) -> int: of any client, known before tracing.
    draw(seed, data, q) -> batch: the examples numbered q, uint32[B] below count; seed: uint32[2].
    ids: how many row ids an example has in each id field; None: as the store says.
    history: how many items of a user's history a model that is trained on them reads.
    longest(data) -> int32[]: examples of the largest client of the chunk, the same for all of it,
        where the one with most interactions need not have most examples; else None.
    """

    count: Callable[[ClientData], jax.Array]
    most: Callable[[Store], int]
    draw: Callable[..., dict[str, jax.Array]]
    ids: dict[str, int] | None
    history: int = 0
    longest: Callable[[ClientData], jax.Array] | None = None

    def ids_in(self, store) -> dict[str, int]:
        """How many row ids an example has in each id field, drawn from `store`."""
        return store.ids if self.ids is None else self.ids


def bits_of(seed: jax.Array, q: jax.Array) -> jax.Array:
    """uint32 bits of counters `q`, by seed uint32[2]."""
    return mix(mix(q + seed[0]) ^ seed[1])


def _user(data: ClientData, index: jax.Array):
    """The user whose exclusion counts for interaction `index`, and the fields that name it."""
    store = data.store
    if store.owners is None:
        return data.id, {}
    owners = store.owners.at[index].get(mode="clip")
    return owners, {"users": store.users.at[index].get(mode="clip")}


def pointwise(negatives: int = 4) -> Batches:
    """Each interaction with label 1, and `negatives` drawn items with label 0 beside it.

    Args:
        negatives: of an interaction, outside the user's items, see `pack(negatives=)`.

    Returns:
        `Batches` of `items` int32[B], `labels` float32[B] and, where clients hold several users,
        `users` int32[B].

    Raises:
        ValueError: for negatives < 0.

    Example:
        >>> strategy = strategies.fedavg(model, data.pointwise(4))
    """
    at_least("pointwise", "negatives", negatives, 0)

    def count(data):
        return data.length * (1 + negatives)

    def draw(seed, data, q):
        q = q.astype(jnp.int32)
        positive = q < data.length
        which = jnp.where(positive, q, (q - data.length) // max(negatives, 1))
        index = data.start + which
        user, fields = _user(data, index)
        items = data.store.items.at[index].get(mode="clip")
        if negatives:
            drawn = data.store.exclusion.pick(user, bits_of(seed, q.astype(jnp.uint32)))
            items = jnp.where(positive, items, drawn)
        return {"items": items, "labels": positive.astype(jnp.float32), **fields}

    return Batches(count, lambda store: store.longest * (1 + negatives), draw, {"items": 1})


def pairwise(negatives: int = 1) -> Batches:
    """An interaction and a drawn item, for BPR.

    Args:
        negatives: pairs of an interaction.

    Returns:
        `Batches` of `items` int32[B, 2], the interaction's item first, and the other fields of
        `pointwise`.

    Raises:
        ValueError: for negatives < 1.

    Example:
        >>> ranked = models.fedmf(num_items, objective=models.bpr())
        >>> strategy = strategies.fedavg(ranked, data.pairwise())
    """
    at_least("pairwise", "negatives", negatives, 1)

    def count(data):
        return data.length * negatives

    def draw(seed, data, q):
        index = data.start + q.astype(jnp.int32) // negatives
        user, fields = _user(data, index)
        items = data.store.items.at[index].get(mode="clip")
        drawn = data.store.exclusion.pick(user, bits_of(seed, q))
        labels = jnp.ones(items.shape, jnp.float32)
        return {"items": jnp.stack([items, drawn], -1), "labels": labels, **fields}

    return Batches(count, lambda store: store.longest * negatives, draw, {"items": 2})


def ratings() -> Batches:
    """Each interaction with its rating as label, and no negatives.

    Raises:
        ValueError: in the round, where the data have no ratings.

    Example:
        >>> rated = models.fedmf(num_items, objective=models.squared_error())
        >>> strategy = strategies.fedavg(rated, data.ratings())
    """

    def draw(seed, data, q):
        if data.store.labels is None:
            raise ValueError(
                "ratings(): the data has no ratings; use pointwise() or data with a rating column."
            )
        index = data.start + q.astype(jnp.int32)
        _, fields = _user(data, index)
        items = data.store.items.at[index].get(mode="clip")
        return {"items": items, "labels": data.store.labels.at[index].get(mode="clip"), **fields}

    return Batches(lambda data: data.length, lambda store: store.longest, draw, {"items": 1})
