"""How long uploads are: quantiles of their norms, among the metrics of a round.

    |u_k| = sqrt(sum of the squares of all dense leaves and touched rows of u_k)
    told: min, p10, p50, p90, max over the clients k of the round that weigh something

Of uploads as they come to the rule: after stages and the uplink, and inside `attacks.attacked`
after the forgery. Norms are listed and the rule's summary is left alone, so that chunks and rule
stay what they are. Numbers are cut at 2^40, as robust rules cut them (`listed`).

`n` clients, `Q` quantiles.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ..trees import Told
from ..types import Aggregator
from .listed import listed
from .norm_bound import norms

SHARES = {"min": 0.0, "p10": 0.1, "p50": 0.5, "p90": 0.9, "max": 1.0}
NAMES = tuple(f"upload_norm_{name}" for name in SHARES)


def with_norms(aggregator: Aggregator) -> Aggregator:
    """`aggregator`, and the metrics `upload_norm_min`, `_p10`, `_p50`, `_p90` and `_max`.

    They are of the last round before a measurement, and null where nobody took part. Whom the round
    rejects since what it made is not finite is in none of them; whom the rule rejects is. Uploads
    are looked at once more than the rule does.

    Args:
        aggregator: the rule, which may be any that sees uploads.

    Returns:
        An `Aggregator` that makes the same updates, and gives the same verdicts.

    Raises:
        ValueError: for an aggregator under a seal, whose server sees no upload.

    Example:
        >>> from fedjax_rec import aggregate
        >>> rule = aggregate.with_norms(aggregate.total())
        >>> strategy = strategies.fedmf(model, data.pointwise(4), aggregator=rule)
    """
    if aggregator.seal is not None:
        raise ValueError(
            f"with_norms({aggregator}): under a seal the server reads the sum alone, and norms of "
            "uploads are nowhere; leave with_norms out."
        )

    def init(shared):
        return {"rule": aggregator.init(shared), "told": Told({x: jnp.float32(0) for x in NAMES})}

    def reduce(state, uploads, now):
        sent = listed(uploads, now)
        norm = {"norm": norms(sent.update), "there": sent.there}
        return {"rule": aggregator.reduce(state["rule"], uploads, now), "norm": norm}

    def finish(key, state, summary, now):
        rule, update, verdicts = aggregator.finish(key, state["rule"], summary["rule"], now)
        found = quantiles(**summary["norm"], shares=tuple(SHARES.values()))
        told = Told(dict(zip(NAMES, found, strict=True)))
        return {"rule": rule, "told": told}, update, verdicts

    additive = {"rule": aggregator.additive, "norm": False}
    return Aggregator(init, reduce, finish, additive, of=aggregator.of or aggregator)


def quantiles(norm: jax.Array, there: jax.Array, shares: Sequence[float]) -> jax.Array:
    """float32[Q]: quantiles of norm float32[n] where there bool[n], linear between neighbours; NaN
    of nobody."""
    in_order = jnp.sort(jnp.where(there, norm, jnp.inf))
    last = jnp.maximum(there.sum() - 1, 0)
    place = jnp.asarray(shares, jnp.float32) * last
    below = jnp.floor(place).astype(jnp.int32)
    low, high = in_order[below], in_order[jnp.minimum(below + 1, last)]
    # Not low + share * (high - low), which rounds the largest away.
    weight = place - below
    return jnp.where(there.any(), (1 - weight) * low + weight * high, jnp.nan)
