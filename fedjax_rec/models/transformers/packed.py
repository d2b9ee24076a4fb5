"""Who sees whom where several texts stand in one sequence, and what a decoder has read before.

    y_t = attention(q_t, [keys of the beginning, keys of t's own text], ...)

A packed sequence holds texts one after another; a token sees its own text alone, at places that
begin anew in each, so that numbers are those of the texts by themselves (Krell et al., "Efficient
sequence packing without cross-contamination", 2021). What all texts begin with is read once, a
`Reading` of keys and values in each layer, which none of them copies: it comes before whatever
follows, and a decoder does not look ahead (prefix caching, as in vLLM; Kwon et al., SOSP 2023).

`L` layers, `P` tokens of the beginning, `T` of a sequence, `n` places of it, `D` width, `H` heads,
`K` key heads, `d` width of a head.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ...types import Array, record
from .decoder import Decoder, DecoderSize, seen, some, taken
from .layers import stacked


@record
class Packing:
    """places: int32[..., T], where each token stands in its text; texts: int32[..., T], the number
    of its text in the sequence, -1 for none."""

    places: Array
    texts: Array

    @property
    def together(self) -> jax.Array:
        """bool[..., T, T]: tokens of one text, padding among itself."""
        return self.texts[..., :, None] == self.texts[..., None, :]


@record
class Branches:
    """Tokens of texts that begin alike, each beginning once: a tree. family: int32[T, A], which of
    the T tokens each sees, itself among them; -1 for none."""

    family: Array

    @property
    def places(self) -> jax.Array:
        """int32[T], where each token stands in its text."""
        return (self.family >= 0).sum(-1) - 1

    @property
    def together(self) -> jax.Array:
        """bool[T, T]: tokens and those that stand before them in their text."""
        return (self.family[:, :, None] == jnp.arange(len(self.family))).any(1)


def visible(mask: jax.Array, packing: Packing | None = None) -> jax.Array:
    """bool[..., T or 1, T], who sees whom of a text with `mask` bool[..., T]: all its real tokens,
    or those of one text."""
    return mask[..., None, :] if packing is None else packing.together


@record
class Reading:
    """keys, values: [L, P, K, d], or [L, devices, P, K, d] where devices have heads of their own;
    size: int32[] or an int, of which the first are real."""

    keys: Array
    values: Array
    size: Array


def read(decoder: Decoder, x: jax.Array) -> tuple[jax.Array, Reading]:
    """(x [P, D] behind all layers, what texts that begin with it need of them)."""
    x, (keys, values) = decoder.remembering(x)
    return x, Reading(keys, values, jnp.int32(x.shape[-2]))


def after(
    decoder: Decoder,
    x: jax.Array,
    packing: Packing | Branches | None = None,
    reading: Reading | None = None,
) -> jax.Array:
    """[..., T, D]: x [..., T, D] behind all layers, of texts that are packed and go on from
    `reading`; None where they are not and do not."""
    told = _told(decoder.size, x, packing, reading)
    return stacked(decoder.layers, x, told, each=held(reading), remat=decoder.remat)


def ends(
    decoder: Decoder,
    x: jax.Array,
    at: jax.Array,
    packing: Packing | Branches | None = None,
    reading: Reading | None = None,
) -> jax.Array:
    """[..., n, D]: what `after` has at the places `at` int32[..., n] alone. The last layer computes
    no more than that."""
    told, size = _told(decoder.size, x, packing, reading), decoder.size
    if size.layers > 1:
        below = size.layers - 1
        x = stacked(decoder.layers, x, told, each=held(reading), remat=decoder.remat, first=below)
    block = some(decoder.layers, -1)
    angles, *masks = block.own(told)
    q, k, v = block.attended(x, angles, at)
    masks = [mask[at] if mask.ndim == 2 else taken(mask, at) for mask in masks]
    return block.finish(taken(x, at), block.mixed(q, k, v, masks, held(reading, -1)))


def held(reading: Reading | None, where: slice | int = slice(None)):
    """(keys, values) of the layers `where`."""
    return None if reading is None else (reading.keys[where], reading.values[where])


def _told(size: DecoderSize, x, packing: Packing | Branches | None, reading: Reading | None):
    """What layers are told of x [..., T, D]: (angles, mask), and the mask of `reading`."""
    places = jnp.arange(x.shape[-2]) if packing is None else packing.places
    read = 0 if reading is None else reading.keys.shape[-3]
    if reading is not None:
        places = reading.size + places
    angles, mask = seen(size, places, places, x.shape[-2] + read)
    if packing is not None:
        mask = mask & packing.together
    if reading is None:
        return angles, mask
    among = jnp.arange(read)
    reached = seen(size, places, among, x.shape[-2] + read)[1]
    return angles, mask, reached & (among < reading.size)
