"""Encoders of texts: what all have, whichever family they are of, and the one made of a stack.

    x = embed(ids);   x <- layer(x, sees(mask)), per layer;   x <- last(x)

`sees` says what layers are told of a text with `mask`: the mask itself (BERT), the distances of
tokens (T5), or angles and who sees whom (ModernBERT, and decoders that read). It is the same for
all layers, so that some of them, with what is behind them, are an encoder of states: a `Top`.
Texts that share a sequence are told apart by a `packed.Packing`.

`V` vocabulary, `L` layers, `T` tokens, `D` width, `n` texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ... import weights
from .decoder import DecoderSize, seen
from .layers import stacked
from .packed import Packing

CHUNK = 64  # texts encoded at once: what a chunk needs stays in cache
ROOM = 64  # tokens of a sequence that short texts share


@dataclass(frozen=True)
class Called:
    """What linear layers are called in the folder, for whoever reads or writes more of the kind.

    parts: (a name in a layer, our linear layers that lie in it, one after another). layer: how the
    name of a layer is made of its number and such a name. prefix: what may stand before all names.
    others: linear layers of the folder that are none of ours.
    """

    parts: tuple[tuple[str, tuple[str, ...]], ...]
    layer: str
    prefix: str = ""
    others: tuple[str, ...] = ()


class Encoder(Protocol):
    """layers: the stack, each called with (x, sees(mask, packing)). last: the norm behind it, or
    None. most: tokens of the longest text, None for any. rows: V."""

    layers: Any
    sees: Any
    last: Any
    called: Called

    @property
    def most(self) -> int | None: ...

    @property
    def rows(self) -> int: ...

    def embed(self, ids: jax.Array, places: jax.Array | None = None) -> jax.Array:
        """[..., T, D]: what goes into the first layer, of ids int32[..., T]; places: int32[..., T]
        where they do not count from 0 on."""
        ...


class Reader(nnx.Module):
    """words: [V, D]; layers: a stack; sees, last: as in `Encoder`; first: the norm of what goes
    into the stack, or None; scale: of embedded tokens."""

    def __init__(
        self, words, layers, sees, last, called: Called, *, first=None, scale=1.0, most=None
    ):
        self.words, self.layers, self.sees = nnx.Param(words), layers, sees
        self.first, self.last = first, last
        self.called, self.scale, self.most = called, scale, most

    @property
    def rows(self) -> int:
        return self.words.shape[0]

    def embed(self, ids, places=None):
        """[..., T, D]: what goes into the first layer, of ids int32[..., T], wherever they are."""
        table = self.words[...]
        x = table[ids] * jnp.asarray(self.scale, table.dtype)
        return x if self.first is None else self.first(x)

    def __call__(self, ids, mask):
        """[..., T, D]: what comes out behind the last layer."""
        return through(self, self.embed(ids), mask)


@dataclass(frozen=True)
class Seen:
    """What `decoder.Block`s are told of a text: (angles, who sees whom), of each kind of layer.

    both: tokens see those behind them as well, in a window as many as before them.
    """

    size: DecoderSize
    both: bool = True

    def __call__(self, mask, packing: Packing | None = None):
        """mask: bool[..., T] of the real tokens, which alone are seen."""
        places = jnp.arange(mask.shape[-1]) if packing is None else packing.places
        angles, among = seen(self.size, places, places)
        among = among | among.mT if self.both else among
        if packing is not None:
            return angles, among & packing.together
        # Kinds of layers are the first axis, before those of texts.
        *kinds, length, _ = among.shape
        among = among.reshape(*kinds, *(1,) * (mask.ndim - 1), length, length)
        return angles, among & mask[..., None, :]


class Top(nnx.Module):
    """The last layers of an encoder and what is behind them: [..., T, D] of x [..., T, D], what
    comes out of the layers below."""

    def __init__(self, layers, sees, last):
        self.layers, self.sees, self.last = layers, sees, last

    def __call__(self, x, mask, remat: bool = False):
        return through(self, x, mask, remat)


def top(encoder: Encoder, start: int = 0) -> Top:
    """The layers `start` .. L of `encoder`."""
    return Top(layers_of(encoder.layers, start), encoder.sees, encoder.last)


def through(
    top: Any, x: jax.Array, mask: jax.Array, remat: bool = False, packing: Packing | None = None
) -> jax.Array:
    """[..., T, D]: x [..., T, D] after the `layers` and the `last` norm of what `sees` so."""
    x = stacked(top.layers, x, top.sees(mask, packing), remat=remat)
    return x if top.last is None else top.last(x)


def number(encoder: Encoder) -> int:
    """L."""
    return encoder.layers.query.kernel.shape[0]


def layers_of(stack: Any, start: int, stop: int | None = None) -> Any:
    """Layers `start` .. `stop` of a stack, as a stack of their own."""
    structure, variables, rest = nnx.split(stack, nnx.Variable, ...)
    return nnx.merge(structure, jax.tree.map(lambda x: x[start:stop], variables), rest)


def outputs(encoder: Any, tokens: weights.Tokens, layers: int | None = None) -> np.ndarray:
    """float32[n, T, D]: what comes out of the first `layers` layers, of all and what is behind them
    for None; 0 behind a text.

    Short texts share a sequence, of `ROOM` tokens or as many as the longest, and a chunk of these
    goes through at a time. Raises ValueError where the texts are longer than the encoder has
    positions, or have tokens without a row in its table.
    """
    most, (n, size) = encoder.most, tokens.ids.shape
    if most is not None and size > most:
        raise ValueError(f"texts of {size} tokens are longer than {most} positions; use length.")
    if tokens.ids.size and tokens.ids.max() >= encoder.rows:
        raise ValueError(
            f"texts have the token {tokens.ids.max()}, and the encoder's table {encoder.rows} "
            "rows; put the tokenizer.json of this model into its folder."
        )
    room = max(size, ROOM if most is None else min(ROOM, most))
    layout = weights.first_fit(np.maximum(tokens.mask.sum(1), 1), room)
    structure, variables, rest = nnx.split(encoder, nnx.Variable, ...)

    @jax.jit
    def run(variables, ids, packing):
        whole = nnx.merge(structure, variables, rest)
        bottom = (
            whole if layers is None else Top(layers_of(whole.layers, 0, layers), whole.sees, None)
        )

        def one(text):
            ids, packing = text
            x = whole.embed(ids, packing.places)
            return through(bottom, x, packing.texts >= 0, packing=packing)

        chunk = max(1, CHUNK * size // packing.texts.shape[1])
        return jax.lax.map(one, (ids, packing), batch_size=chunk)

    real = layout.texts >= 0
    text = np.take_along_axis(layout.of, np.maximum(layout.texts, 0), 1)
    ids = np.where(real, tokens.ids[text, layout.places], 0)
    packing = Packing(jnp.asarray(layout.places), jnp.asarray(layout.texts))
    made = np.asarray(run(variables, jnp.asarray(ids), packing))
    out = np.zeros((n, size, made.shape[-1]), np.float32)
    out[text[real], layout.places[real]] = made[real]
    return out
