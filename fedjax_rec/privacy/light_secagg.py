"""LightSecAgg: no pairwise masks, one mask a client in coded pieces (So et al., "LightSecAgg: a
lightweight and versatile design for secure aggregation in federated learning", MLSys 2022).

    y_i = x_i + z_i,   z_i in U - T pieces and T random ones, coded for each of n clients
    up    a_K  +  (n - 1) d b / (U - T)  +  d b  +  d b / (U - T)          (down: n - 1 pieces more)

In the end each client sends the sum of the pieces that it holds of those who are there, and the
server decodes the sum of their masks from any U of these, whoever dropped: one aggregated mask.
That the decoding gives that sum is taken from the paper, and not played: the simulation takes the
sum itself off, modulo 2^b where the paper has a prime field.
"""

from __future__ import annotations

import math

from ..check import fraction
from ..wire import bits as packed
from .protocol import Protocol, Sizes


def light_secagg(private: float = 0.5, there: float = 0.7, sizes: Sizes | None = None) -> Protocol:
    """Masks are taken off all at once, by coded pieces.

    Guarantee (of the paper, of honest but curious parties): a server with up to T = floor(private
    n) clients that tell it what they have learns of the others nothing but their sum, if
    U = ceil(there n) are there in the end.

    Args:
        private: T / n. In [0, 1].
        there: U / n, above `private`.
        sizes: bytes of keys and sealing; None for keys of 256 bits.

    Returns:
        A `Protocol`.

    Raises:
        ValueError: for what is no fraction; and, where the clients are known, for U <= T.

    Example:
        >>> from fedjax_rec import privacy
        >>> privacy.light_secagg().up(10, numbers=1000, bits=32)["pieces"]
        18324
    """
    fraction("light_secagg", "private", private)
    fraction("light_secagg", "there", there)
    s = sizes or Sizes()

    def parts(n: int) -> tuple[int, int]:
        """(U, T)"""
        secret, needed = math.floor(private * n * (1 + 1e-12)), math.ceil(there * n * (1 - 1e-12))
        if needed <= secret:
            raise ValueError(
                f"light_secagg(private={private}, there={there}) of {n} clients: {needed} open a "
                f"sum, and {secret} of them may be curious; use a larger `there` or a smaller "
                "`private`."
            )
        return needed, secret

    def piece(n: int, numbers: int, bits: int) -> int:
        needed, secret = parts(n)
        return packed.nbytes_at(-(-numbers // (needed - secret)), bits)

    def pieces(n: int, numbers: int, bits: int) -> int:
        return (n - 1) * (piece(n, numbers, bits) + 2 * s.id + s.sealing)

    def up(n: int, numbers: int, bits: int) -> dict[str, int]:
        sent = {"keys": s.key, "pieces": pieces(n, numbers, bits)}
        return sent | {"unmasking": piece(n, numbers, bits)}

    def down(n: int, numbers: int, bits: int) -> dict[str, int]:
        got = {"keys": (n - 1) * (s.key + s.id), "pieces": pieces(n, numbers, bits)}
        return got | {"there": n * s.id}

    return Protocol("light_secagg", lambda n: 0, lambda n: parts(n)[0], up, down)
