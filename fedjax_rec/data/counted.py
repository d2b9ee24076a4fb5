"""Examples that say how many of them their client has, for losses that are sums over a client."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp

from .batches import Batches


def counted(examples: Batches) -> Batches:
    """`examples` with a field `count` float[B] more: the examples of the client in an epoch.

    Args:
        examples: such as `pointwise()` or `pairwise()`.

    Returns:
        `Batches` of the same examples.

    Example:
        >>> ranked = models.fedmf(num_items, objective=models.summed(models.bpr()))
        >>> strategy = strategies.fedavg(ranked, data.counted(data.pairwise()), batch_size=4096)
    """

    def draw(seed, data, q):
        count = examples.count(data).astype(jnp.float32)
        return {**examples.draw(seed, data, q), "count": jnp.broadcast_to(count, q.shape)}

    return replace(examples, draw=draw)
