"""DnC, divide and conquer: without those furthest out along the direction of most variance.

    in each of some rounds, on some of the coordinates:  x_k = u_k - mean u,
    v = the top right singular vector of x,   s_k = <x_k, v>^2,   the c f largest s_k are out
    u = the mean of those that are out in no round

(Shejwalkar and Houmansadr, "Manipulating the Byzantine: optimizing model poisoning attacks and
defenses for federated learning", NDSS 2021, algorithm 2.) Breakdown point: f of 2f + 1 clients, and
of what is left out c f in each round. Cost: inner products of all pairs, n^2 P, and a decomposition
of n^2 a round.

Here the coordinates that are looked at are rows and dense numbers, and the scores come of the
inner products: with x = U S V^T they are (S_1 U_k1)^2.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .. import rows
from ..check import at_least, holds, positive, static
from ..types import Aggregator, PyTree
from .gram import gram, of_chosen, ranks
from .listed import Listed, count, listing, refuse_too_few


def dnc(f: int, share: float = 1.0, times: int = 1, c: float = 1.0) -> Aggregator:
    """The mean of the clients that do not lie furthest out, along the direction of most variance.

    Updates are judged whole: a row that a client did not touch is a zero. Which rows and dense
    numbers a round looks at is drawn from the key. Each client counts once, whatever it weighs;
    those that are out are rejected.

    Args:
        f: attackers among the clients of a round that it stands. 0 or more.
        share: of the rows of a table and the numbers of a dense leaf that a round looks at.
        times: rounds. 1 or more.
        c: who is out in a round, c f rounded down. Positive; where that is everybody, nobody is
            left.

    Returns:
        An `Aggregator` that lists uploads. Of 2f clients or fewer in a round it makes a zero update
        and rejects all.

    Raises:
        ValueError: for f below 0, fewer rounds than 1, c that is not positive, or a share outside
            0 < share <= 1; and in a round that has room for 2f clients or fewer.

    Example:
        >>> from fedjax_rec import aggregate
        >>> aggregate.dnc(f=2, share=0.5, times=3).additive
        False
    """
    at_least("dnc", "f", f, 0)
    if not holds(share, lambda x: (x > 0) & (x <= 1)):
        raise ValueError(f"dnc(share={share}) looks at nothing; use 0 < share <= 1.")
    static("dnc", "times", times)
    at_least("dnc", "times", times, 1)
    positive("dnc", "c", c)

    def finish(key, state, uploads: Listed, now):
        there = uploads.there
        refuse_too_few("dnc", f, there, 2, 1)
        n, out = count(there), jnp.floor(c * f)

        def once(key):
            score = outlying(gram(_some(key, uploads.update, share)), there)
            return ranks(score, there) < n - out

        kept = jax.lax.map(once, jax.random.split(key, times)).all(0)
        weights, verdicts = of_chosen(there & kept & (n > 2 * f))
        return state, rows.weighted_sum(weights, uploads.update), verdicts

    return listing(finish)


def outlying(gram: jax.Array, there: jax.Array) -> jax.Array:
    """float32[n]: the square of each update, less their mean, along the direction of most variance;
    of whom is not `there` 0."""
    mean = there / jnp.maximum(count(there), 1).astype(jnp.float32)
    middle = (jnp.eye(there.shape[0]) - mean[None, :]) * there[:, None]
    # Inner products of numbers that are 10^12 large are scaled before they are decomposed.
    scale = jnp.maximum(jnp.abs(gram).max(initial=0), 1e-30)
    precise = lambda a, b: jnp.matmul(a, b, precision="highest")
    values, vectors = jnp.linalg.eigh(precise(precise(middle, gram / scale), middle.T))
    return jnp.maximum(values[-1], 0) * vectors[:, -1] ** 2 * scale


def _some(key: jax.Array, updates: PyTree, share) -> PyTree:
    """`updates` with a share of their rows and dense numbers, and zero elsewhere."""
    drawn = []

    def one(x):
        mine = jax.random.fold_in(key, len(drawn))
        drawn.append(x)
        if not rows.is_table(x):
            return jnp.where(jax.random.uniform(mine, x.shape[1:]) < share, x, 0)
        seen = jax.random.uniform(mine, (x.size,)) < share
        seen = seen if x.ids is None else seen.at[x.ids].get(mode="fill", fill_value=False)
        return rows.with_values(x, jnp.where(seen[..., None], x.values, 0))

    return rows.map_nodes(one, updates)
