"""A little is enough: the mean of the honest, moved by a part of their spread.

    u_m[i] = mean_i - z std_i   over the honest clients that touched row i

(Baruch, Baruch, Goldberg, "A little is enough: circumventing defenses for distributed learning",
NeurIPS 2019.) What is forged lies within what honest clients say, so that distances do not show it,
and all attackers say the same. The paper takes of n clients, f of them attackers, the z below which
(n - f - s) / (n - f) of a normal distribution lies, s = floor(n / 2 + 1) - f.
"""

from __future__ import annotations

from .attacked import Attack
from .honest import forged


def alie(z: float = 1.5) -> Attack:
    """The mean of the honest clients less z of their standard deviations, of each row that a
    malicious client touched and each dense leaf. The adversary reads the uploads of all.

    Args:
        z: how far; the paper's is .06 of 13 attackers among 256 clients, and 1.5 is ByzFL's.

    Example:
        >>> from fedjax_rec import attacks
        >>> rule = attacks.attacked(aggregate.krum(f=2), attacks.alie(), attacks.named([3, 7]))
    """
    value = lambda mean, deviation: mean - z * deviation
    return Attack(lambda key, state, update, sides, now: (state, forged(update, sides, value)))
