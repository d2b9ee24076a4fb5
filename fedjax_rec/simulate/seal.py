"""Seals: checksums that tell whether saved arrays came back as they were.

    seal = (n, CRC-32 of dtype, shape and bytes of each of the n arrays in the order of their names)

A disk, a copy or a hand may change a byte that no decoder minds. A CRC-32 sees every change of up
to 32 bits in a row (Peterson and Brown, Proc. IRE 1961), and misses one in 2^32 of the others.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

SEAL = "#seal"


class Damaged(ValueError):
    """What was saved did not come back as it was."""


def sealed(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """`arrays` and, by the name `SEAL`, uint32[1 + number of arrays]."""
    return {**arrays, SEAL: _seal(arrays)}


def opened(found: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The arrays of `sealed`, without the seal.

    Raises:
        Damaged: One of them is not what it was; it names the first.
    """
    arrays = {name: x for name, x in found.items() if name != SEAL}
    if SEAL not in found or len(found[SEAL]) != 1 + len(arrays):
        raise Damaged(f"{what} has lost its checksums")
    for name, is_, was in zip(["", *sorted(arrays)], _seal(arrays), found[SEAL], strict=True):
        if is_ != was:
            raise Damaged(f"{what} has another checksum at {name}")
    return arrays


def sealed_text(value: Any) -> dict[str, Any]:
    """A mapping of JSON that holds `value`, which is JSON too, and the checksum of its text."""
    text = json.dumps(value, sort_keys=True)
    return {"text": text, "crc32": zlib.crc32(text.encode())}


def opened_text(found: Any, what: str) -> Any:
    """The value in what `sealed_text` gave. Raises Damaged."""
    text = found.get("text") if isinstance(found, Mapping) else None
    if not isinstance(text, str) or zlib.crc32(text.encode()) != found.get("crc32"):
        raise Damaged(f"{what} has another checksum")
    return json.loads(text)


def _seal(arrays: Mapping[str, Any]) -> np.ndarray:
    return np.array([len(arrays), *(crc32(arrays[name]) for name in sorted(arrays))], np.uint32)


def crc32(x: Any) -> int:
    """Of dtype, shape and bytes of an array."""
    x = np.ascontiguousarray(x)
    start = zlib.crc32(f"{x.dtype}{x.shape}".encode())
    return zlib.crc32(x.reshape(-1).view(np.uint8), start) if x.size else start
