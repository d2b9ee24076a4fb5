"""A protocol of secure aggregation: who masks with whom, who may be away, and bytes by phase.

    keys -> shares -> masked upload -> unmasking

All bytes are those of one client. The content of keys, shares and ciphertexts is not simulated:
messages have their length. What is cut off is an active server: nothing is signed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..check import at_least


@dataclass(frozen=True)
class Sizes:
    """Bytes. key: a public key (X25519). share: of a secret of 256 bits (Shamir). sealing: what
    authenticated encryption adds (AES-GCM: nonce 12, tag 16). id: what names a client."""

    key: int = 32
    share: int = 32
    sealing: int = 28
    id: int = 4


@dataclass(frozen=True)
class Protocol:
    """Of `clients` places a round. `numbers` are those of a masked vector, of `bits` each.

    neighbours(clients) -> k: with how many others a client has pairwise masks; 0 for none.
    least(clients) -> t: of the neighbours, and the client itself where that is everybody, how many
        must be there in the end; fewer cannot open the sum.
    up(clients, numbers, bits), down(...) -> {phase: bytes}: beside the masked vector and the model.
    """

    name: str
    neighbours: Callable[[int], int]
    least: Callable[[int], int]
    up: Callable[[int, int, int], dict[str, int]]
    down: Callable[[int, int, int], dict[str, int]]


def most_of(where: str, asked: int | None, default: int, parties: int) -> int:
    """A threshold of `parties`: as asked, or `default`. Raises ValueError for one out of range."""
    if asked is None:
        return min(max(1, default), max(1, parties))
    at_least(where, "threshold", asked, 1)
    if asked > parties:
        raise ValueError(
            f"{where}(threshold={asked}) asks for more shares than the {parties} that are dealt; "
            f"use threshold <= {parties}."
        )
    return asked
