"""Asynchronous federated averaging: a server step as soon as K uploads have come.

    x_{t+1} = x_t + eta * aggregate_k( s(t - t_k) * u_k ),   s: the weight of what is stale

- `fedbuff`   u_k = x_k - x_{t_k}, what client k changed (Nguyen et al., AISTATS 2022)
- `fedasync`  u_k = x_k - x_t, so that for K = 1 and eta = a  x <- (1 - a s) x + a s x_k
              (Xie, Koyejo & Gupta, 2019)

The rounds are those of `rounds.asynchronous`.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..check import fraction, positive
from ..clients import Local, local_training
from ..clients.rates import rated
from ..data import Batches
from ..rounds.asynchronous import asynchronous
from ..rounds.clock import Clock, lognormal_clock
from ..rounds.inflight import Staleness, models, polynomial
from ..servers.step import step
from ..types import Model, Strategy, Transform


def fedbuff(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    clock: Clock | None = None,
    concurrency: int,
    optimizer: Local | Sequence[Local] | Transform | None = None,
    user_learning_rate: float | None = None,
    item_learning_rate: float | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    staleness: Staleness | None = None,
    **kwargs,
) -> Strategy:
    """x <- x + eta sum_k n_k s(tau_k) u_k / sum_k n_k over the next K uploads, K the cohort.

    Arguments that are not named here are those of `fedavg`.

    Args:
        clock: default `lognormal_clock(epochs=epochs)`.
        concurrency: M, the clients at work, at least the cohort.
        staleness: default `polynomial(0.5)`, the paper's.
        kwargs: as in `asynchronous`; with `aggregator=uniform()` the mean is the paper's, 1/K sum_k
            s(tau_k) u_k.

    Raises:
        ValueError: as `asynchronous`.

    Example:
        >>> strategy = strategies.fedbuff(model, data.pointwise(4), concurrency=8)
    """
    local = rated(model, optimizer, user_learning_rate, item_learning_rate)
    client = local_training(model, examples, local, epochs, steps, batch_size, probe)
    return asynchronous(
        client, model, clock or lognormal_clock(epochs=epochs),
        concurrency, staleness=staleness or polynomial(), **kwargs,
    )  # fmt: skip


def fedasync(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    concurrency: int,
    mixing: float = 0.6,
    **kwargs,
) -> Strategy:
    """x <- (1 - a s(tau)) x + a s(tau) x_k, a = `mixing`, on the rows that client k touched.

    For cohorts of one client; of a larger cohort the mean of its models is mixed in.
    Arguments that are not named here are those of `fedbuff`.

    Args:
        mixing: a, how much of x_k enters x where nothing is stale.
        kwargs: as in `fedbuff`, without `server` and `held`.

    Raises:
        ValueError: unless 0 < mixing <= 1, and for a `server` or `held`.

    Example:
        >>> strategy = strategies.fedasync(model, data.pointwise(4), concurrency=4, mixing=0.6)
    """
    positive("fedasync", "mixing", mixing)
    fraction("fedasync", "mixing", mixing)
    for name in ("server", "held"):
        if name in kwargs:
            raise ValueError(f"fedasync({name}=...) is what `mixing` sets; use fedbuff for others.")
    return fedbuff(
        model, examples, probe, concurrency=concurrency, server=step(mixing), held=models(),
        **kwargs,
    )  # fmt: skip
