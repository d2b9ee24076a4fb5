"""Encoders of texts: what all have, whichever family they are of, and the one made of a stack.

    x = embed(ids);   x <- layer(x, sees(mask)), per layer;   x <- last(x)

`sees` says what layers are told of a text with `mask`: the mask itself (BERT), the distances of
tokens (T5), or angles and who sees whom (ModernBERT, and decoders that read). It is the same for
all layers, so that some of them, with what is behind them, are an encoder of states: a `Top`.

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

CHUNK = 64  # texts encoded at once: what a chunk needs stays in cache


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
    """layers: the stack, each called with (x, sees(mask)). last: the norm behind it, or None. most:
    tokens of the longest text, None for any. rows: V."""

    layers: Any
    sees: Any
    last: Any
    called: Called

    @property
    def most(self) -> int | None: ...

    @property
    def rows(self) -> int: ...

    def embed(self, ids: jax.Array) -> jax.Array:
        """[..., T, D]: what goes into the first layer, of ids int32[..., T]."""
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

    def embed(self, ids):
        """[..., T, D]: what goes into the first layer, of ids int32[..., T]."""
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

    def __call__(self, mask):
        """mask: bool[..., T] of the real tokens, which alone are seen."""
        places = jnp.arange(mask.shape[-1])
        angles, among = seen(self.size, places, places)
        among = among | among.mT if self.both else among
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


def through(top: Any, x: jax.Array, mask: jax.Array, remat: bool = False) -> jax.Array:
    """[..., T, D]: x [..., T, D] after the `layers` and the `last` norm of what `sees` so."""
    x = stacked(top.layers, x, top.sees(mask), remat=remat)
    return x if top.last is None else top.last(x)


def number(encoder: Encoder) -> int:
    """L."""
    return encoder.layers.query.kernel.shape[0]


def layers_of(stack: Any, start: int, stop: int | None = None) -> Any:
    """Layers `start` .. `stop` of a stack, as a stack of their own."""
    structure, variables, rest = nnx.split(stack, nnx.Variable, ...)
    return nnx.merge(structure, jax.tree.map(lambda x: x[start:stop], variables), rest)


def outputs(encoder: Any, tokens: weights.Tokens, layers: int | None = None) -> np.ndarray:
    """float32[n, T, D]: what comes out of the first `layers` layers, a chunk of texts at a time;
    of all layers and what is behind them for None.

    Raises ValueError where the texts are longer than the encoder has positions, or have tokens
    without a row in its table.
    """
    most, size = encoder.most, tokens.ids.shape[1]
    if most is not None and size > most:
        raise ValueError(f"texts of {size} tokens are longer than {most} positions; use length.")
    if tokens.ids.size and tokens.ids.max() >= encoder.rows:
        raise ValueError(
            f"texts have the token {tokens.ids.max()}, and the encoder's table {encoder.rows} "
            "rows; put the tokenizer.json of this model into its folder."
        )
    structure, variables, rest = nnx.split(encoder, nnx.Variable, ...)

    @jax.jit
    def run(variables, ids, mask):
        whole = nnx.merge(structure, variables, rest)
        if layers is None:
            one = lambda text: through(whole, whole.embed(text[0]), text[1])
        else:
            bottom = layers_of(whole.layers, 0, layers)
            one = lambda text: stacked(bottom, whole.embed(text[0]), whole.sees(text[1]))
        return jax.lax.map(one, (ids, mask), batch_size=CHUNK)

    return np.asarray(run(variables, jnp.asarray(tokens.ids), jnp.asarray(tokens.mask)))
