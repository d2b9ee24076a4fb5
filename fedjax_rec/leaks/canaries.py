"""A lower bound on epsilon from one run: canaries, each of which took part with probability 1/2.

    P(W >= v) <= P(B >= v) + 2 m delta alpha,   B ~ Binomial(r, 1 / (1 + e^-epsilon)),
    alpha = max_i P(v - i <= B < v) / i

for the v right ones of r guesses which of m canaries took part. The largest epsilon at which what
was seen is this unlikely is a lower bound (Steinke, Nasr & Jagielski, "Privacy auditing with one
(1) training run", NeurIPS 2023, theorem 5.2 and appendix D). A bound above what is accounted for
shows a fault; one below shows nothing, and is far below where canaries are few.

Here a canary is a client whose update is as long as the clip allows along a coordinate of its own,
and the mechanism is the aggregator that runs use, on one round of all that take part.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import binom

from .. import rows
from ..check import at_least, below, positive
from ..types import Aggregator, Now, Upload


@dataclass(frozen=True)
class Audited:
    """epsilon: the lower bound, at a confidence of 1 - `level`; right of `guesses` were right, of
    so many `canaries`."""

    epsilon: float
    right: int
    guesses: int
    canaries: int
    delta: float
    level: float


def canaries(
    mechanism: Aggregator,
    bound: float,
    key: jax.Array,
    count: int = 40_000,
    guesses: int = 600,
    delta: float = 1e-6,
    level: float = 0.05,
) -> Audited:
    """A lower bound on the epsilon of one round of `mechanism` with everybody in it.

    Half of the guesses say `took part` of the canaries whose coordinates are highest, half say `did
    not` of the lowest; how many is fixed beforehand.

    Args:
        mechanism: such as `privacy.gaussian_mean(privacy.whole(1.0), 1.0, clients=10_000)`.
        bound: the longest update that its clip leaves as it is.
        key: of the coins and of the mechanism's noise.
        count: m, canaries.
        guesses: r.
        delta: of the guarantee that is audited.
        level: the probability of a bound that is too high.

    Returns:
        What was `Audited`.

    Raises:
        ValueError: for more guesses than canaries, and numbers out of range.

    Example:
        >>> from fedjax_rec import leaks, privacy
        >>> mean = privacy.gaussian_mean(privacy.whole(1.0), 1.0, clients=200)
        >>> found = leaks.canaries(mean, 1.0, jax.random.key(0), count=200, guesses=20)
        >>> found.epsilon < privacy.epsilon_of(1.0, 1, privacy.poisson_sampled(1.0, 200), 1e-5)
        True
    """
    at_least("canaries", "guesses", guesses, 2)
    at_least("canaries", "count", count, guesses)
    positive("canaries", "bound", bound)
    coins, noise = jax.random.split(key)
    there = jax.random.bernoulli(coins, 0.5, (count,))
    told = np.asarray(jax.jit(_summed, static_argnums=0)(mechanism, bound, noise, there))
    order = np.argsort(told, kind="stable")
    half = guesses // 2
    truth = np.asarray(there)
    right = int(truth[order[-half:]].sum() + (~truth[order[:half]]).sum())
    epsilon = epsilon_below(count, 2 * half, right, delta, level)
    return Audited(epsilon, right, 2 * half, count, delta, level)


def epsilon_below(canaries: int, guesses: int, right: int, delta: float, level: float) -> float:
    """The largest epsilon that `right` guesses rule out, 0 where none.

    Args:
        canaries: m.
        guesses: r, fixed beforehand.
        right: v.
        delta: of the guarantee.
        level: the probability of a bound that is too high.

    Raises:
        ValueError: for counts or probabilities out of range.

    Example:
        >>> from fedjax_rec import leaks
        >>> round(leaks.epsilon_below(1000, 100, 100, 0.0, 0.05), 3)
        3.493
    """
    at_least("epsilon_below", "right", right, 0)
    at_least("epsilon_below", "guesses", guesses, right)
    at_least("epsilon_below", "canaries", canaries, guesses)
    at_least("epsilon_below", "delta", delta, 0)
    positive("epsilon_below", "level", level)
    below("epsilon_below", "level", level, 1)
    off = lambda epsilon: unlikely(canaries, guesses, right, epsilon, delta) - level
    if off(0.0) >= 0:
        return 0.0
    high = 1.0
    while off(high) < 0:
        high *= 2
    low = 0.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if off(middle) < 0 else (low, middle)
    return low


def unlikely(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """The probability that so many guesses are right, or more, where (epsilon, delta) holds: an
    upper bound, 1 at most.

    Args:
        canaries: m.
        guesses: r.
        right: v.
        epsilon: of the guarantee.
        delta: of the guarantee.

    Example:
        >>> from fedjax_rec import leaks
        >>> leaks.unlikely(10, 4, 4, 0.0, 0.0)
        0.0625
    """
    q = 1 / (1 + np.exp(-epsilon))
    p = float(binom.sf(right - 1, guesses, q))
    if delta > 0 and right > 0:
        steps = np.arange(1, right + 1)
        within = np.cumsum(binom.pmf(right - steps, guesses, q))
        p += 2 * canaries * delta * float((within / steps).max())
    return min(p, 1.0)


def _summed(mechanism: Aggregator, bound: float, key, there: jax.Array) -> jax.Array:
    """float32[m]: what the mechanism makes of canaries, of which those that are `there` weigh 1.

    A table of one number a row, of which client k changes row k.
    """
    m = there.shape[0]
    shared = {"canary": rows.Table(jnp.zeros((m, 1)))}
    client = jnp.arange(m, dtype=jnp.int32)
    update = rows.RowsUpdate(
        jnp.full((m, 1, 1), bound, jnp.float32), client[:, None], there[:, None], None, m
    )
    uploads = Upload({"canary": update}, there.astype(jnp.float32), {})
    now = Now(jnp.int32(0), shared, client, client)
    state = mechanism.init(shared)
    summary = mechanism.reduce(state, uploads, now)
    made = mechanism.finish(key, state, summary, now)[1]
    return rows.to_dense(made)["canary"][:, 0]
