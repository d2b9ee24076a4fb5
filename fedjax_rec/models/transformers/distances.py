"""How far apart two tokens are, in buckets: what T5 and MPNet add to scores is one number a bucket.

Of n buckets, half are for those before a token and half for those behind it; half of these have one
distance each, the others lie evenly in its logarithm up to `most`, and the last holds all beyond
(Raffel et al. 2020; Song et al. 2020).

`T` tokens.
"""

from __future__ import annotations

import math

import numpy as np


def buckets(length: int, count: int = 32, most: int = 128) -> np.ndarray:
    """int[T, T]: the bucket of each place, seen from each."""
    ahead = np.arange(length)[None] - np.arange(length)[:, None]
    side, near = count // 2, count // 4
    far = np.abs(ahead)
    log = np.log(np.maximum(far, near).astype(np.float32) / near)
    beyond = near + (log / np.float32(math.log(most / near)) * (side - near)).astype(int)
    return np.where(ahead > 0, side, 0) + np.where(far < near, far, np.minimum(side - 1, beyond))
