"""How a training example's negatives are drawn, where not evenly from what its user has not.

Popular items are the negatives that a model mistakes, and drawing them more often tells it sooner;
what it then learns are scores less log q (Yi et al., RecSys 2019), unless the loss puts that back
(`models.log_q_softmax`).

`I` items.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..keys import below
from ..made import part


@part
class NegativeDraws:
    """pick(store, bits uint32[...]) -> int32[...], the items of these random bits.
    log_q(store, items) -> float32[...], the logarithm of how likely each is drawn."""

    pick: Callable[..., jax.Array]
    log_q: Callable[..., jax.Array]


def popular_negatives() -> NegativeDraws:
    """q(i) = training interactions of item i / training interactions: the item of an interaction
    that is drawn evenly from those of all users, its user's own among them.

    Every client then knows how often each item was interacted with, which in a federation somebody
    has to count: in the clear, or by a sum that is masked or noised, which is not simulated here.

    Raises:
        ValueError: in the round, for a store that was not made by `pack`.

    Example:
        >>> batches = data.sequences(length=10, negatives=8, drawn=data.popular_negatives())
    """

    def ends_of(store: Any) -> jax.Array:
        if getattr(store, "ends", None) is None:
            raise ValueError(
                "popular_negatives(): the store does not say how often items were interacted with; "
                "make it by pack()."
            )
        return store.ends

    def pick(store, bits):
        ends = ends_of(store)
        place = below(bits, ends[-1])
        return jnp.searchsorted(ends, place, side="right", method="scan_unrolled").astype(jnp.int32)

    def log_q(store, items):
        ends = ends_of(store)
        count = ends[items] - jnp.where(items > 0, ends[items - 1], 0)
        return jnp.log(count.astype(jnp.float32) / ends[-1].astype(jnp.float32))

    return NegativeDraws(pick, log_q)
