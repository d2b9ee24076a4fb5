"""Negatives that are drawn once, before training, and stay: what many released codes do.

Example q of a client is the same in every epoch of every round. Drawn anew, negatives teach in the
end what a user has not; those that stay teach so of as many items as the user has.
"""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp

from ..check import seed as check_seed
from ..keys import mix
from .batches import Batches


def drawn_once(examples: Batches, seed: int = 0) -> Batches:
    """`examples`, each of which is the same in all rounds.

    Args:
        examples: what is drawn, such as `data.pairwise()`.
        seed: of the draws, which no other seed of a run changes.

    Returns:
        `Batches` of as many examples.

    Raises:
        ValueError: for no seed of 32 bits.

    Example:
        >>> strategy = strategies.fedmf(model, data.drawn_once(data.pointwise(4)))
    """
    check_seed("drawn_once", seed)

    def draw(_, data, q):
        own = mix(data.id.astype(jnp.uint32) ^ mix(jnp.uint32(seed)))
        return examples.draw(jnp.stack([own, mix(own + jnp.uint32(1))]), data, q)

    return replace(examples, draw=draw)
