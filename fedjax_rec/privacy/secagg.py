"""SecAgg: pairwise masks with everybody (Bonawitz et al., "Practical secure aggregation for
privacy-preserving machine learning", CCS 2017).

    up    2 a_K  +  2 (n - 1) a_S  +  d b  +  n a_S
    down  2 (n - 1) a_K  +  2 (n - 1) a_S                n clients, keys of a_K and shares of a_S

Two shares for each other client go out, of the key that pairwise masks come from and of the seed of
the client's own mask, sealed and named; in the end one share of each client. That is the paper's
2 n a_K + (5 n - 4) a_S + d b of both ways, and what sealing and naming add.
"""

from __future__ import annotations

from .protocol import Protocol, Sizes, most_of


def secagg(threshold: int | None = None, sizes: Sizes | None = None) -> Protocol:
    """Everybody has masks with everybody: O(n) keys and shares a client.

    Guarantee (of the paper, of honest but curious parties): a server that sees all messages, and up
    to threshold - 1 clients that tell it theirs, learn of the others nothing but their sum.

    Args:
        threshold: t, clients that must be there in the end; None for more than half. At least 1.
        sizes: bytes of keys and shares; None for those of 256 bits.

    Returns:
        A `Protocol`.

    Raises:
        ValueError: for threshold < 1 and, where the clients are known, for one above them.

    Example:
        >>> from fedjax_rec import privacy
        >>> sum(privacy.secagg().up(100, numbers=1000, bits=32).values())
        13164
    """
    most_of("secagg", threshold, 1, 2**31)
    s = sizes or Sizes()

    def shares(n: int) -> int:
        return (n - 1) * (2 * s.share + 2 * s.id + s.sealing)

    def up(n: int, numbers: int, bits: int) -> dict[str, int]:
        return {"keys": 2 * s.key, "shares": shares(n), "unmasking": n * s.share}

    def down(n: int, numbers: int, bits: int) -> dict[str, int]:
        return {"keys": (n - 1) * (2 * s.key + s.id), "shares": shares(n), "there": n * s.id}

    least = lambda n: most_of("secagg", threshold, n // 2 + 1, n)
    return Protocol("secagg", lambda n: n - 1, least, up, down)
