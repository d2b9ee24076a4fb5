"""Cover rows: a client also trains on items that it has not, as if it had them.

Of n interactions, floor(share n) cover items with the labels of the client's own interactions, one
after another. They are the same in every round: what is drawn anew is told apart by not coming
again. Their rows then move as those of interactions do, which hides which of both is real, costs
the bytes of the rows, and teaches the model what is not so.

(Pseudo-items as of Lin et al., "FedRec: federated recommendation with explicit feedback", IEEE
Intelligent Systems 2021, there drawn anew in every round, with ratings filled in.)
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from ..check import at_least, fraction, static
from ..keys import below, mix
from .batches import Batches


def covered(examples: Batches, share: float = 1.0, popular: float = 1.0, seed: int = 0) -> Batches:
    """`examples`, whose first are a client's interactions, and cover items beside them.

    An item may be drawn twice, and drawn negatives may hit one. Covers are drawn from what the
    negatives policy leaves, so never from training interactions. Bytes up grow by the rows of the
    covers: by `share` where there are no negatives, by share / (1 + negatives) where there are.

    Args:
        examples: `pointwise()` or `ratings()`.
        share: covers of an interaction.
        popular: the share of covers that are drawn from all clients' interactions, as likely as
            items are popular, which then has to be public; the others are drawn evenly, and can be
            told by being rare.
        seed: of the draw.

    Returns:
        `Batches` of the same fields.

    Raises:
        ValueError: for share < 0, for popular outside [0, 1], and, when a round is traced, for
            examples of several items.

    Example:
        >>> hidden = data.covered(data.pointwise(4), share=1.0)
        >>> strategy = strategies.fedavg(model, hidden)
    """
    static("covered", "share", share)
    at_least("covered", "share", share, 0)
    fraction("covered", "popular", popular)
    if not share:
        return examples

    def covers(data):
        return (data.length * share).astype(jnp.int32)

    def count(data):
        return examples.count(data) + covers(data)

    def draw(seed_of_round, data, q):
        first = examples.count(data).astype(jnp.uint32)
        real = q < first
        number = jnp.where(real, 0, q - first)
        bits = mix(number ^ mix(jnp.uint32(seed) ^ mix(jnp.asarray(data.id).astype(jnp.uint32))))
        own = number % jnp.maximum(data.length, 1).astype(jnp.uint32)
        batch = examples.draw(seed_of_round, data, jnp.where(real, q, own))
        if batch["items"].ndim > 1:
            raise ValueError(
                "covered(examples) takes examples of one item each; use pointwise() or ratings()."
            )
        user = data.id if data.store.owners is None else _owner(data, own)
        evenly = data.store.exclusion.pick(user, bits)
        size = data.store.items.shape[0]
        anyones = data.store.items[below(mix(bits + 2), jnp.int32(size))]
        coin = mix(bits + 3).astype(jnp.float32) / 2.0**32
        taken = (coin < popular) & ~_has(data, anyones)
        hidden = jnp.where(taken, anyones, evenly)
        return {**batch, "items": jnp.where(real, batch["items"], hidden)}

    def most(store):
        return examples.most(store) + int(store.longest * share)

    longest = examples.longest
    return replace(
        examples, count=count, most=most, draw=draw,
        longest=longest and (lambda data: longest(data) + (data.longest * share).astype(jnp.int32)),
    )  # fmt: skip


def _owner(data, own: jax.Array) -> jax.Array:
    return data.store.owners.at[data.start + own.astype(jnp.int32)].get(mode="clip")


def _has(data, items: jax.Array) -> jax.Array:
    """bool[B]: whether the client has an interaction with each of `items`."""
    place = jnp.arange(data.store.longest)
    own = data.store.items.at[data.start + place].get(mode="clip")
    own = jnp.where(place < data.length, own, -1)
    return (items[:, None] == own[None]).any(1)
