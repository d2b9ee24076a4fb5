"""What a shuffler adds: nobody knows which of n reports is whose.

    epsilon = ln(1 + (e^e0 - 1) / (e^e0 + 1) (8 sqrt(e^e0 ln(4 / delta) / n) + 8 e^e0 / n)),
    where e0 <= ln(n / (16 ln(2 / delta)))

(Feldman, McMillan & Talwar, "Hiding among the clones: a simple and nearly optimal analysis of
privacy amplification by shuffling", FOCS 2021, theorem 3.1.)
"""

from __future__ import annotations

import math

from ..check import at_least, below, positive


def shuffled(epsilon: float, clients: int, delta: float) -> float:
    """The central epsilon of reports that are locally private, once a shuffler has mixed them.

    Guarantee: n reports, each (epsilon, 0)-locally private of all that it is made of, in an order
    that tells nothing, are (returned, delta)-differentially private, neighbours having one client
    exchanged. Of an upload with a number a coordinate, `epsilon` is that of the whole upload, see
    `whole_upload`; the shuffler is trusted not to tell who sent what.

    Args:
        epsilon: e0 of one client's report. Positive.
        clients: n, whose reports are mixed.
        delta: in (0, 1).

    Returns:
        The central epsilon, never above `epsilon`: where the theorem says nothing (too few clients)
        it is that of the reports themselves.

    Raises:
        ValueError: for numbers out of range.

    Example:
        >>> from fedjax_rec import privacy
        >>> round(privacy.shuffled(1.0, clients=10_000, delta=1e-6), 3)
        0.214
        >>> privacy.shuffled(1682 * 32.0, clients=10_000, delta=1e-6)
        53824.0
    """
    positive("shuffled", "epsilon", epsilon)
    at_least("shuffled", "clients", clients, 1)
    positive("shuffled", "delta", delta)
    below("shuffled", "delta", delta, 1)
    if epsilon > math.log(clients / (16 * math.log(2 / delta))):
        return float(epsilon)
    grown = math.exp(epsilon)
    spread = 8 * math.sqrt(grown * math.log(4 / delta) / clients) + 8 * grown / clients
    return min(float(epsilon), math.log1p((grown - 1) / (grown + 1) * spread))
