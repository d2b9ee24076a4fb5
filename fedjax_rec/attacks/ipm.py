"""Inner product manipulation: the mean of the honest, turned round.

    u_m[i] = -scale 1/m_i sum of u_k[i] over the m_i honest clients that touched row i

(Xie, Koyejo, Gupta, "Fall of empires: breaking Byzantine-tolerant SGD by inner product
manipulation", UAI 2019.) With f of n clients the mean turns where scale > (n - f) / f. A small
scale hides among the honest and turns rules that pick whoever lies in the middle.
"""

from __future__ import annotations

from ..check import positive
from .attacked import Attack
from .honest import forged


def ipm(scale: float = 0.1) -> Attack:
    """-scale times the mean of the honest clients, of each row that a malicious client touched and
    each dense leaf. The adversary reads the uploads of all.

    Args:
        scale: epsilon. Positive; .1 to .5 hides, 100 shouts.

    Raises:
        ValueError: unless scale is positive.

    Example:
        >>> from fedjax_rec import attacks
        >>> rule = attacks.attacked(aggregate.uniform(), attacks.ipm(100.0), attacks.named([3]))
    """
    positive("ipm", "scale", scale)
    value = lambda mean, deviation: -scale * mean
    return Attack(lambda key, state, update, sides, now: (state, forged(update, sides, value)))
