"""FedNova: the mean of updates, each divided by how many steps it took.

    tau_eff sum_k p_k u_k / a_k,   tau_eff = sum_k p_k a_k,   p_k = n_k / n

(Wang et al., "Tackling the objective inconsistency problem in heterogeneous federated
optimization", NeurIPS 2020, equation 10.) a_k is how often client k adds up its gradients in tau_k
steps: tau_k for SGD, [tau - r (1 - r^tau) / (1 - r)] / (1 - r) with momentum r, and
(1 - (1 - s)^tau) / s with a proximal term, s = eta mu.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from .. import rows
from ..check import below, fraction
from ..types import Aggregator, Upload
from .mean import linear, row_wise


def normalized(momentum: float | None = None, proximal: float | None = None) -> Aggregator:
    """tau_eff sum_k p_k u_k / a_k, the mean by examples of updates that are divided by their steps.

    Clients must send their `steps`, `clients.reporting(client, ["steps"])`. A fixed point of the
    round is one of sum_k p_k f_k to first order in the step, however unequal the steps are.

    Args:
        momentum: r, of the local SGD; None for none.
        proximal: s = eta mu of FedProx; None for none. At most one of the two.

    Raises:
        ValueError: outside 0 <= momentum < 1 and 0 <= proximal <= 1, where both are given, and in
            the round where clients do not send their steps.

    Example:
        >>> rule = aggregate.normalized(momentum=0.9)
        >>> strategy = strategies.fednova(model, data.pointwise(4), aggregator=rule)
    """
    amount = _amount("normalized", momentum, proximal)
    return _times_effective(linear(lambda weight: weight, lambda u: 1 / amount(u)), amount)


def normalized_per_row(momentum: float | None = None, proximal: float | None = None) -> Aggregator:
    """`per_row()` of u_k / a_k, times tau_eff.

    Args:
        momentum: as in `normalized`.
        proximal: as in `normalized`.

    Raises:
        ValueError: as `normalized`.

    Example:
        >>> rule = aggregate.normalized_per_row(momentum=0.9)
    """
    amount = _amount("normalized_per_row", momentum, proximal)
    return _times_effective(row_wise(lambda u: 1 / amount(u)), amount)


def _amount(where: str, momentum: float | None, proximal: float | None):
    """float[c]: a_k of every client of a chunk; 1 of those that took no step."""
    if momentum is not None and proximal is not None:
        raise ValueError(
            f"{where}(momentum={momentum}, proximal={proximal}) is not known; give one, not both."
        )
    if momentum is not None:
        fraction(where, "momentum", momentum)
        below(where, "momentum", momentum, 1)
    if proximal is not None:
        fraction(where, "proximal", proximal)

    def amount(uploads: Upload):
        if "steps" not in uploads.aux:
            raise ValueError(
                f"{where}() needs the steps of every client; let clients send them, "
                'clients.reporting(client, ["steps"]).'
            )
        steps = a = uploads.aux["steps"]
        if momentum is not None:
            a = (steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum)
        if proximal is not None:
            # (1 - (1 - s)^tau) / s, which at s = 0 is tau.
            least = jnp.maximum(proximal, 1e-12)
            a = jnp.where(proximal > 0, (1 - (1 - proximal) ** steps) / least, steps)
        return jnp.where(steps > 0, a, 1.0)

    return amount


def _times_effective(aggregator: Aggregator, amount: Callable) -> Aggregator:
    def reduce(state, uploads: Upload, now):
        counts = uploads.weight > 0
        together = jnp.where(counts, uploads.weight * amount(uploads), 0).sum()
        weight = uploads.weight.sum()
        inner = aggregator.reduce(state, uploads, now)
        return {"mean": inner, "amount": together, "weight": weight}

    def finish(key, state, summary, now):
        state, update, verdicts = aggregator.finish(key, state, summary["mean"], now)
        effective = summary["amount"] / jnp.maximum(summary["weight"], 1e-30)
        return state, rows.scale(update, effective), verdicts

    return Aggregator(aggregator.init, reduce, finish, linear=True)
