"""FedNova: the mean of updates, each divided by how many steps it took.

    tau_eff sum_k p_k u_k / a_k,   tau_eff = sum_k p_k a_k,   p_k = n_k / n

(Wang et al., "Tackling the objective inconsistency problem in heterogeneous federated
optimization", NeurIPS 2020, equation 10.) a_k is how often client k adds up its gradients in tau_k
steps: tau_k for SGD, [tau - r (1 - r^tau) / (1 - r)] / (1 - r) with momentum r, and
(1 - (1 - s)^tau) / s with a proximal term, s = eta mu.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ..check import fraction
from ..types import Aggregator, Upload
from .mean import linear, row_wise, scaled


def normalized(momentum: float = 0.0, proximal: float = 0.0) -> Aggregator:
    """`mean()` of u_k / a_k, times tau_eff.

    Clients must report `steps` among their metrics, as `clients.local_training` does. A fixed point
    of the round is one of sum_k p_k f_k to first order in the step, however unequal the steps are.
    momentum: of the local SGD. proximal: eta mu of FedProx; at most one of the two.
    Raises ValueError outside 0 <= momentum < 1 and 0 <= proximal <= 1, and where both are given.
    """
    amount = _amount("normalized", momentum, proximal)
    return _times_effective(linear(lambda weight: weight, lambda u: 1 / amount(u)), amount)


def normalized_per_row(momentum: float = 0.0, proximal: float = 0.0) -> Aggregator:
    """`per_row()` of u_k / a_k, times tau_eff; otherwise as `normalized`."""
    amount = _amount("normalized_per_row", momentum, proximal)
    return _times_effective(row_wise(lambda u: 1 / amount(u)), amount)


def _amount(where: str, momentum: float, proximal: float) -> Callable[[Upload], jax.Array]:
    """float[c]: a_k of every client of a chunk; 1 of those that took no step."""
    fraction(where, "momentum", momentum)
    fraction(where, "proximal", proximal)
    if momentum == 1 or (momentum and proximal):
        raise ValueError(
            f"{where}(momentum={momentum}, proximal={proximal}) is not known; use momentum < 1, "
            "or proximal, not both."
        )

    def amount(uploads: Upload):
        if "steps" not in uploads.metrics:
            raise ValueError(
                f"{where}() needs the steps of every client; let the client report "
                'metrics["steps"], as clients.local_training does.'
            )
        steps = a = uploads.metrics["steps"]
        if momentum:
            a = (steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum)
        if proximal:
            a = (1 - (1 - proximal) ** steps) / proximal
        return jnp.where(steps > 0, a, 1.0)

    return amount


def _times_effective(aggregator: Aggregator, amount: Callable) -> Aggregator:
    def reduce(uploads: Upload):
        together = (uploads.weight * amount(uploads)).sum()
        weight = uploads.weight.sum()
        return {"mean": aggregator.reduce(uploads), "amount": together, "weight": weight}

    def finish(key, state, summary):
        state, update = aggregator.finish(key, state, summary["mean"])
        effective = summary["amount"] / jnp.maximum(summary["weight"], 1e-30)
        return state, scaled(update, effective)

    return Aggregator(aggregator.init, reduce, finish, additive=True)
