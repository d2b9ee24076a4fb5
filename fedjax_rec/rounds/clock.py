"""A simulated clock: how many seconds each client needs for a round.

    seconds_k = epochs * examples_k / speed_k + bytes_down_k / downlink_k + bytes_up_k / uplink_k
                + latency,                                              times e^(jitter * normal)

- `lognormal_clock`  speeds and bandwidths of a client are drawn once, around a median, the spread
                     of devices as in FedScale (Lai et al., ICML 2022): a slow client stays slow
- `traced_clock`     speeds and bandwidths of each client as they were recorded

Bytes are those of the real packets. Which clients are there at all is drawn with the cohort: by
probability or by trace `simulate.cohorts.available`, failures `simulate.cohorts.dropout`.

`N` clients, `c` clients asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import check, keys
from ..check import at_least, holds, is_traced, positive
from ..made import part


@part
class Clock:
    """seconds(key, ids int32[c], examples float[c], bytes_down, bytes_up uint32[c]) -> float32[c]:
    how long these clients take from the start to the end of their upload; of padding any finite
    number. `key` is the round's.
    clients: how many clients it knows; None for any number of them.
    """

    seconds: Callable[..., jax.Array]
    clients: int | None = None


def lognormal_clock(
    speed: float = 1000.0,
    downlink: float = 2e6,
    uplink: float = 5e5,
    latency: float = 0.1,
    spread: float = 1.0,
    bandwidth_spread: float = 1.0,
    jitter: float | None = None,
    epochs: float = 1.0,
    seed: int = 0,
) -> Clock:
    """Client k: speed * e^(spread * z_k), its bandwidths times one e^(bandwidth_spread * z'_k).

    Args:
        speed: median examples a second.
        downlink: median bytes a second.
        uplink: median bytes a second.
        latency: seconds a round.
        spread: standard deviations of the logarithm; at 1 one client in six is slower than the
            median by e.
        bandwidth_spread: as `spread`.
        jitter: likewise, of all seconds of a client, anew each round; None for none.
        epochs: how often a client goes over its examples.
        seed: which clients are slow, whatever the key of the run.

    Raises:
        ValueError: unless speed, bandwidths and epochs are positive, the others at least 0, and the
            seed is one of 32 bits.

    Example:
        >>> clock = strategies.lognormal_clock(spread=0.5, jitter=0.1)
        >>> strategy = strategies.fedavg(model, data.pointwise(4), clock=clock, deadline=60.0)
    """
    check.seed("lognormal_clock", seed)
    rates = {"speed": speed, "downlink": downlink, "uplink": uplink, "epochs": epochs}
    for name, value in rates.items():
        positive("lognormal_clock", name, value)
    others = {"latency": latency, "spread": spread, "bandwidth_spread": bandwidth_spread}
    for name, value in {**others, "jitter": 0 if jitter is None else jitter}.items():
        at_least("lognormal_clock", name, value, 0)

    def devices(ids):
        own = keys.for_client(jax.random.key(seed), ids)
        fast, near = jnp.exp(
            jnp.array([spread, bandwidth_spread])
            * jax.vmap(lambda k: jax.random.normal(k, (2,)))(own)
        ).T
        return speed * fast, downlink * near, uplink * near, jnp.float32(latency)

    return Clock(_counted(devices, epochs, jitter))


def traced_clock(
    speed: Sequence[float] | float,
    downlink: Sequence[float] | float,
    uplink: Sequence[float] | float,
    latency: Sequence[float] | float = 0.0,
    jitter: float | None = None,
    epochs: float = 1.0,
) -> Clock:
    """A clock of devices that were measured: client k has the k-th entry of each list.

    Args:
        speed: examples a second, float[N] or one number for all clients, as are the next three.
        downlink: bytes a second, which may be infinite.
        uplink: bytes a second, likewise.
        latency: seconds a round.
        jitter: as in `lognormal_clock`.
        epochs: as in `lognormal_clock`.

    Raises:
        ValueError: where speeds, bandwidths or epochs are not positive, latencies or jitter are
            negative, or the lists are not of one length.

    Example:
        >>> clock = strategies.traced_clock(speed=[900.0, 300.0], downlink=2e6, uplink=5e5)
    """
    positive("traced_clock", "epochs", epochs)
    if jitter is not None:
        at_least("traced_clock", "jitter", jitter, 0)
    traces, lengths = {}, {}
    for name, given in (
        ("speed", speed), ("downlink", downlink), ("uplink", uplink), ("latency", latency),
    ):  # fmt: skip
        x: Any = given if is_traced(given) else np.asarray(given, np.float32)
        traces[name] = x
        least = (lambda x: (x >= 0) & np.isfinite(x)) if name == "latency" else (lambda x: x > 0)
        if x.ndim > 1 or not holds(x, least):  # of NaN neither holds
            wanted = "finite and at least 0" if name == "latency" else "positive"
            raise ValueError(f"traced_clock({name}=...) must be {wanted}, a number or a list.")
        if x.ndim:
            lengths[name] = x.shape[0]
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in lengths.items())
        raise ValueError(f"traced_clock: lists of unlike length ({told}); give one entry a client.")

    def devices(ids):
        one = lambda x: jnp.asarray(x).at[ids].get(mode="clip") if x.ndim else jnp.asarray(x)
        return tuple(one(x) for x in traces.values())

    clients = next(iter(lengths.values()), None)
    return Clock(_counted(devices, epochs, jitter), clients)


def _counted(devices: Callable, epochs: float, jitter: float | None) -> Callable:
    def seconds(key, ids, examples, bytes_down, bytes_up):
        speed, downlink, uplink, latency = devices(ids)
        took = epochs * jnp.asarray(examples, jnp.float32) / speed + latency
        took = took + jnp.asarray(bytes_down, jnp.float32) / downlink
        took = took + jnp.asarray(bytes_up, jnp.float32) / uplink
        if jitter is not None:
            own = keys.for_client(key, ids)
            took = took * jnp.exp(jitter * jax.vmap(jax.random.normal)(own))
        return took.astype(jnp.float32)

    return seconds
