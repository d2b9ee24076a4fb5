"""SecAgg+: pairwise masks with k neighbours of a random graph (Bell et al., "Secure single-server
aggregation with (poly)logarithmic overhead", CCS 2020).

    up    2 a_K  +  2 k a_S  +  d b  +  (k + 1) a_S
    down  2 k a_K  +  2 k a_S                             keys of a_K and shares of a_S

Neighbours are the nearest on a circle on which a round's clients are put at random (a Harary graph,
in a random order). Shares go to neighbours alone, of whom t must be there in the end.
"""

from __future__ import annotations

import math

from ..check import at_least
from .protocol import Protocol, Sizes, most_of


def secagg_plus(
    neighbours: int | None = None, threshold: int | None = None, sizes: Sizes | None = None
) -> Protocol:
    """Each has masks with k others: O(log n) keys and shares a client, at O(log n) mask vectors.

    Guarantee: as that of `secagg`, but for a chance that falls with k. The graph is random: it is
    small while t is above the neighbours that may tell the server what they have, and those who
    stay are above t. What k makes it as small as wanted says theorem 3.10 of the paper; the default
    is of its order, and no proof.

    Args:
        neighbours: k, rounded up to an even number; None for 4 ceil(log2 n). At least 2. Where that
            is everybody it is `secagg`.
        threshold: t of the k; None for more than a third.
        sizes: bytes of keys and shares; None for those of 256 bits.

    Returns:
        A `Protocol`.

    Raises:
        ValueError: for numbers out of range.

    Example:
        >>> from fedjax_rec import privacy
        >>> sum(privacy.secagg_plus(10).up(1000, numbers=1000, bits=32).values())
        1416
    """
    if neighbours is not None:
        at_least("secagg_plus", "neighbours", neighbours, 2)
    most_of("secagg_plus", threshold, 1, 2**31)
    s = sizes or Sizes()

    def degree(n: int) -> int:
        asked = neighbours or 4 * math.ceil(math.log2(max(2, n)))
        return min(n - 1, asked + asked % 2)

    def shares(n: int) -> int:
        return degree(n) * (2 * s.share + 2 * s.id + s.sealing)

    def up(n: int, numbers: int, bits: int) -> dict[str, int]:
        return {"keys": 2 * s.key, "shares": shares(n), "unmasking": (degree(n) + 1) * s.share}

    def down(n: int, numbers: int, bits: int) -> dict[str, int]:
        k = degree(n)
        return {"keys": k * (2 * s.key + s.id), "shares": shares(n), "there": (k + 1) * s.id}

    least = lambda n: most_of("secagg_plus", threshold, degree(n) // 3 + 1, degree(n))
    return Protocol("secagg_plus", degree, least, up, down)
