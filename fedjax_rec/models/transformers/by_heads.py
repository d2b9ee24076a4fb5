"""Linear layers whose weights stay where they lie, on several devices, and whose inputs travel.

    columns   Y_k = [x of all devices] W_k          query, key, value, gate, up
    rows      y = sum_k H_k W_k, to each device its own          output, down

(Shoeybi et al., "Megatron-LM", 2019.) Device k has the columns of its own heads, or of its own
inner numbers, and the rows that take these in: all between is computed by heads, for the clients
of all devices, and a half of a block is two trips, one of what goes in and one of what comes out.
Adapters lie with their client. With x go the products x A, r numbers a token, and to each device
its columns of every client's B; what comes out brings H_k A_k home, where B is:

    columns   [x A of all] [B of all]_k          rows   (sum_k H_k [A of all]_k) B

Back through a trip is the other one: what was gathered is summed to its device.

`K` devices, `r` rank, `in`, `out` widths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ... import pieces
from ...types import Array, PyTree, record
from .products import EVERY, kept_out, times


@record
class Spread:
    """own: [..., in], of this device's clients; all: [K, ..., in], of those of all devices."""

    own: Array
    all: Array

    dtype = property(lambda self: self.own.dtype)


@dataclass(frozen=True)
class Way:
    """How a linear layer is computed whose weight lies so.

    times(x, kernel, of): x W, of the outputs `of` alone. through(x, a, b, drop): drop(x) A B, of a
    client's A [in, r] and B [r, out]. outputs(b, y): numbers b [out] of a client as those of y.
    """

    times: Callable[..., jax.Array]
    through: Callable[..., jax.Array]
    outputs: Callable[[jax.Array, jax.Array], jax.Array]


def way_of(kernel: nnx.Variable) -> Way:
    """The one of `HERE`, `COLUMNS` and `ROWS` that fits where `kernel` lies."""
    along = [share.along for share in pieces.shares(kernel.get_value())]
    if not along:
        return HERE
    return COLUMNS if along[0] == -1 else ROWS


def spread(kernel: nnx.Variable, x: jax.Array, **counts: int) -> Any:
    """x [..., in] as the layer of `kernel` and those beside it take it.

    counts: what devices divide among each other, by name. Raises ValueError where they cannot.
    """
    if way_of(kernel) is HERE:
        return x
    devices = jax.lax.axis_size(pieces.HEADS)
    for name, count in counts.items():
        if count % devices:
            fit = max(k for k in range(1, devices) if all(n % k == 0 for n in counts.values()))
            raise ValueError(
                f"base_devices={devices} by heads does not divide the {count} {name} of this model;"
                f" use base_devices={fit}, or base_by=layers."
            )
    return Spread(x, gathered(x))


def everyone(kernel: nnx.Variable, tree: PyTree, ndim: int) -> PyTree:
    """Arrays [...] that a client knows, as those of all devices' clients [K, ..., ...] of `ndim`
    axes, where the layer of `kernel` works for all of them."""
    if way_of(kernel) is HERE:
        return tree
    return jax.tree.map(lambda x: long(gathered(x), ndim), tree)


def parted(kernel: nnx.Variable, x: jax.Array, along: int, ndim: int) -> jax.Array:
    """An array that a client knows, as the part along an axis of everyone's that this device works
    on, where the layer of `kernel` lies so."""
    return x if way_of(kernel) is HERE else dealt(x, along, ndim)


def refuse_together(kernel: nnx.Variable, **parts: Any) -> None:
    """Raises ValueError where there is one of `parts`, which need all heads together, and the layer
    of `kernel` lies by heads."""
    found = [name for name, part in parts.items() if part is not None]
    if found and way_of(kernel) is not HERE:
        raise ValueError(
            f"base_by=heads: this model has norms of all heads together ({', '.join(found)}, as in "
            f"OLMo 2), which lie on several devices; {pieces.BY_LAYERS}."
        )


def dealt(x: jax.Array, along: int, ndim: int) -> jax.Array:
    """[K, ..., n / K] of `ndim` axes: of everyone's x [..., n], the part along an axis that this
    device works on."""
    devices, axis = jax.lax.axis_size(pieces.HEADS), x.ndim + along
    parts = x.reshape(*x.shape[:axis], devices, x.shape[axis] // devices, *x.shape[axis + 1 :])
    parts = jnp.moveaxis(parts, axis, 0)
    return long(jax.lax.all_to_all(parts, pieces.HEADS, 0, 0, tiled=True), ndim)


def long(x: jax.Array, ndim: int) -> jax.Array:
    """x [K, ...] with axes of one behind the first, `ndim` in all."""
    return x.reshape(x.shape[0], *(1,) * (ndim - x.ndim), *x.shape[1:])


# Collectives are tiled, over an axis that is there: under `vmap`, jax 0.10 loses track of one that
# a trip adds or takes away.
def gathered(x: jax.Array) -> jax.Array:
    """[K, ...] of x [...] of each device."""
    return jax.lax.all_gather(x[None], pieces.HEADS, tiled=True)


def _home(h: jax.Array) -> jax.Array:
    """[...]: of h [K, ...] of each device, this device's own, summed over them."""
    return jax.lax.psum_scatter(h, pieces.HEADS, tiled=True)[0]


def _columns(x: Any, kernel: nnx.Variable, of=EVERY) -> jax.Array:
    if not isinstance(x, Spread) or of is not EVERY:
        return pieces.refuse_whole()
    return kept_out(x.all, pieces.here(kernel.get_value()))


def _rows(h: jax.Array, kernel: nnx.Variable, of=EVERY) -> jax.Array:
    if of is not EVERY or h.shape[-1] == kernel.get_value().shape[-2]:
        return pieces.refuse_whole()
    return _home(kept_out(h, pieces.here(kernel.get_value())))


def _through_columns(x: Spread, a, b, drop=None):
    own = x.own if drop is None else drop(x.own)
    small = gathered(own @ a)
    return small @ dealt(b, -1, small.ndim)


def _through_rows(h: jax.Array, a, b, drop=None):
    if drop is not None:
        raise ValueError(
            "base_by=heads: what goes into the adapters of output and down lies on several "
            f"devices, of which none draws what is dropped; use dropout=0, or {pieces.BY_LAYERS}."
        )
    return _home(h @ dealt(a, -2, h.ndim)) @ b


def _through(x, a, b, drop=None):
    return (x if drop is None else drop(x)) @ a @ b


HERE = Way(times, _through, lambda b, y: b)
COLUMNS = Way(_columns, _through_columns, lambda b, y: dealt(b, -1, y.ndim))
ROWS = Way(_rows, _through_rows, lambda b, y: b)
