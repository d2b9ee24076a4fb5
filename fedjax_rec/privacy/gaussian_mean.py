"""The Gaussian mechanism on the sum of clipped updates: user-level central differential privacy.

    x = 1/K ( sum_k clip(u_k) + N(0, (z S)^2 I) ),    |clip(u)| <= S

(McMahan et al., "Learning differentially private recurrent language models", ICLR 2018.) The noise
is on **all** rows of all tables, touched or not, and on all dense leaves, and K is a number that
depends on no data. The server is trusted: it sees updates, and what leaves it is private. What is
protected is everything of one client. The noise of rounds is independent, or `correlated` as a
factorization says (DP-FTRL).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .. import rows
from ..aggregate.listed import listed
from ..check import at_least, is_traced, positive
from ..types import Aggregator, Upload
from .clip import Clip
from .factorization import Factorization


def gaussian_mean(
    clip: Clip, noise_multiplier: float, clients: float, correlated: Factorization | None = None
) -> Aggregator:
    """The sum of clipped updates, with noise, over a number of clients that is fixed beforehand.

    Each client counts once, whatever it weighs. A client whose update is not finite counts as zero
    and is counted as rejected by the engine. Everything that a client sends besides its update
    would be a release of its own, and is refused.

    Guarantee: with cohorts sampled as an accountant of `privacy` assumes, what it says. Neighbours
    differ in all data of one client, and noise_multiplier = z is the standard deviation over the
    sensitivity.

    Args:
        clip: how updates are clipped, such as `whole(1.0)`.
        noise_multiplier: z; 0 for no noise and no guarantee. At least 0; may be traced.
        clients: K, what the sum is divided by: the expected clients of a round. Positive.
        correlated: how the noise of a round hangs on that of those before, such as
            `banded(16).over(rounds, sampling)`; None for independent noise.

    Returns:
        An `Aggregator` whose update is dense: all rows move. It keeps `correlated.copies` float32
        numbers for each of the model's.

    Raises:
        ValueError: for z < 0 and K that is not positive; for z above what `adaptive` spends on
            counting; for a bound that moves under correlated noise; and, when a round is traced,
            where clients send something besides updates.

    Example:
        >>> from fedjax_rec import privacy
        >>> private = privacy.gaussian_mean(privacy.whole(1.0), noise_multiplier=1.0, clients=100)
        >>> private.additive
        True
    """
    at_least("gaussian_mean", "noise_multiplier", noise_multiplier, 0)
    positive("gaussian_mean", "clients", clients)
    z = noise_multiplier
    if correlated is not None and clip.watched is not None:
        raise ValueError(
            "gaussian_mean(correlated=...): what later rounds take back is noise of one size, and "
            "the bound of `adaptive` moves; use a bound that stays, such as whole(1.0)."
        )
    if clip.watched is not None:
        z = of_sum(noise_multiplier, clip.watched * clients)

    def init(shared):
        if correlated is None:
            return clip.init()
        leaves = jax.tree.leaves(rows.dense(rows.zero_update(shared)))
        return {"clip": clip.init(), "noise": [correlated.init(x.shape) for x in leaves]}

    def reduce(state, uploads: Upload, now):
        _refuse_more(uploads)
        sent = listed(uploads, now)
        there = sent.there.astype(jnp.float32)
        held = state if correlated is None else state["clip"]
        factor, update = clip.apply(held, sent.update)
        summary = {"update": rows.weighted_sum(there * factor, update)}
        # Half is taken off, so that one client changes the count by 1/2.
        return summary | {"below": (there * ((factor >= 1) - 0.5)).sum()}

    def finish(key, state, summary, now):
        sum_key, count_key = jax.random.split(key)
        held = state if correlated is None else state["clip"]
        deviation = z * clip.sensitivity(held)
        arrays = jax.tree.leaves(rows.to_dense(summary["update"]))
        drawn = jax.random.split(sum_key, len(arrays))
        if correlated is None:
            noise = [jax.random.normal(k, x.shape) for k, x in zip(drawn, arrays, strict=True)]
        else:
            moved = [
                correlated.next(k, past, x.shape)
                for k, past, x in zip(drawn, state["noise"], arrays, strict=True)
            ]
            kept, noise = zip(*moved, strict=True)
            state = {"clip": held, "noise": list(kept)}
        noises = iter(noise)

        def one(u, x):
            x = (x.astype(jnp.float32) + deviation * next(noises)) / clients
            if not rows.is_table(u):
                return x
            return rows.RowsUpdate(x, None, jnp.ones(u.size, bool), None, u.size)

        update = rows.map_nodes(one, summary["update"], rows.to_dense(summary["update"]))
        if clip.watched is not None:
            noise = clip.watched * jax.random.normal(count_key)
            state = clip.follow(state, summary["below"] / clients + 0.5 + noise)
        return state, update, None

    return Aggregator(init, reduce, finish)


def of_sum(noise_multiplier, count_noise):
    """z of the sum where a count of that standard deviation, of sensitivity 1/2, is told as well:
    both together are one Gaussian mechanism of `noise_multiplier`."""
    known = not is_traced(noise_multiplier)
    if known and noise_multiplier == 0:
        return 0.0
    left = 1 / noise_multiplier**2 - 1 / (2 * count_noise) ** 2
    if known and not left > 0:
        raise ValueError(
            f"gaussian_mean(noise_multiplier={noise_multiplier}) is spent on counting clients "
            f"below the bound, with noise of {count_noise} clients; use more than "
            f"{noise_multiplier / 2:.3g} for it, a larger `noise` of adaptive."
        )
    return left**-0.5


def _refuse_more(uploads: Upload) -> None:
    more = [*sorted(uploads.aux), *sorted(uploads.known)]
    if more:
        raise ValueError(
            f"gaussian_mean: clients send {more[0]!r} beside their update, which has no noise; use "
            "a strategy whose clients send updates alone, such as fedavg."
        )
