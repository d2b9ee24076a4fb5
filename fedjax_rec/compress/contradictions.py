"""What a message may say that no update becomes: counts, places and scales that contradict another.

`wire.from_bytes` refuses bytes that are not how a packet is written. Of what it reads, a compressor
knows more: how many coordinates `top_k` keeps, that no scale is negative, that two parts speak of
as many rows. These are the words of its complaints, of arrays that are known.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..rows import RowsUpdate
from ..wire import Live


def miscounted(what: str, live: Any, wanted: Any, most: bool = False) -> str | None:
    """Of `what`, where not as many are live as `wanted`; or more than that, for `most`."""
    count, wanted = int(np.sum(np.asarray(live))), int(wanted)
    if count == wanted or (most and count < wanted):
        return None
    return f"{count} {what} came where {'at most ' if most else ''}{wanted} can"


def no_scale(scale: Any) -> str | None:
    """Of scales of which one is negative or not a finite number."""
    x = np.asarray(scale, np.float32)
    wrong = x[~(np.isfinite(x) & (x >= 0))]
    return f"a scale is {wrong[0]} where scales are finite and 0 or more" if wrong.size else None


def no_multiple(scale: Any, times: Any) -> str | None:
    """Of `no_scale`, and of scales of which a multiple that came is more than a float32 holds."""
    if wrong := no_scale(scale):
        return wrong
    many = np.abs(np.asarray(times, np.float64)).max(initial=0)
    most = many * np.asarray(scale, np.float64).max(initial=0)
    if most <= np.finfo(np.float32).max:
        return None
    return f"a multiple of a scale is {most:g}, which is more than a float32 holds"


def beyond(what: str, values: Any, most: float) -> str | None:
    """Of values of which one is larger than `most` in magnitude, or is no number."""
    x = np.abs(np.asarray(values, np.float64))
    wrong = x[~(x <= most)]
    return (
        f"{what} of magnitude {wrong[0]:g} came where {most:g} is the most" if wrong.size else None
    )


def filled(node):
    """A node like this of which all entries are live, of zeros; of arrays the array."""
    if not isinstance(node, (RowsUpdate, Live)):
        return jnp.zeros(node.shape, node.dtype)
    values = jnp.zeros(node.values.shape, node.values.dtype)
    return replace(node, values=values, live=jnp.ones(node.live.shape, bool))
