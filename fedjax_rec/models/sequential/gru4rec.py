"""GRU4Rec: a recurrent network over a user's items (Hidasi et al., ICLR 2016).

    r, z = s(W x_t + b + U h),  n = tanh(W_n x_t + b_n + r (U_n h + c)),  h <- (1 - z) n + z h

with x_t the row of item i_t, or the states of the layer below; score(next = i) = (V h_T) . q_i.
Places before the first item leave h at 0. The losses are those of `next_item`, where the paper
has BPR and TOP1: with softmax it is a strong baseline (Hidasi & Karatzoglou, CIKM 2018).

`B` batch, `L` places, `D` width of rows, `H` of states.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from ...check import at_least, fraction, positive
from ...types import Model
from ..roles import from_nnx
from ..transformers.dropping import dropout, seeds
from ..transformers.layers import linear
from .next_item import ItemLoss, item_table, loss_of_next, read_last, sampled_softmax, score_rows


class GRU(nnx.Module):
    """One recurrent layer: states [..., L, H] of x [..., L, D] and bool[..., L]."""

    def __init__(self, inputs, width, rngs):
        self.input, self.state = linear(rngs, inputs, 3 * width), linear(rngs, width, 3 * width)

    def __call__(self, x, real):
        into = jnp.moveaxis(self.input(x), -2, 0)

        def one(h, now):
            x, here = now
            a, b = jnp.split(x, 3, -1), jnp.split(self.state(h), 3, -1)
            r, z = jax.nn.sigmoid(a[0] + b[0]), jax.nn.sigmoid(a[1] + b[1])
            n = jnp.tanh(a[2] + r * b[2])
            h = jnp.where(here[..., None], (1 - z) * n + z * h, h)
            return h, h

        start = jnp.zeros((*into.shape[1:-1], into.shape[-1] // 3), x.dtype)
        _, states = jax.lax.scan(one, start, (into, jnp.moveaxis(real, -1, 0)))
        return jnp.moveaxis(states, 0, -2)


class GRU4Rec(nnx.Module):
    def __init__(self, num_items, width, hidden, layers, rate, loss, rngs):
        values = width**-0.5 * jax.random.normal(rngs.params(), (num_items, width))
        self.item = item_table(values, loss, ("inputs", "targets"))
        sizes = [width] + [hidden] * (layers - 1)
        self.layers = nnx.List([GRU(size, hidden, rngs) for size in sizes])
        self.out = linear(rngs, hidden, width)
        self.rate, self.objective, self.num_items = rate, loss, num_items

    def states(self, rows, real, seed=None):
        """[..., L, D] of item rows [..., L, D] and bool[..., L]."""
        places = seeds(seed, len(self.layers) + 1)
        x = dropout(places[0], rows, self.rate)
        for layer, place in zip(self.layers, places[1:], strict=True):
            x = dropout(place, layer(x, real), self.rate)
        return self.out(x)

    loss, read, score = loss_of_next, read_last, score_rows


def gru4rec(
    num_items: int,
    members: int = 1,
    width: int = 64,
    hidden: int = 64,
    layers: int = 1,
    dropout: float = 0.2,
    loss: ItemLoss | None = None,
) -> Model:
    """Shared item rows [num_items, width] and recurrent layers of `hidden` states; no private part.
    Train it on `data.sequences`; histories may be of any length.

    Arguments that are not named here are those of `sasrec`.

    Args:
        width: `D` of item rows.
        hidden: `H`.
        layers: recurrent ones, one on another.

    Raises:
        ValueError: for sizes below 1, and for a dropout outside 0 .. 1.

    Example:
        >>> model = models.gru4rec(num_items, width=8, hidden=16)
        >>> strategy = strategies.fedavg(model, data.sequences(10, negatives=8))
    """
    positive("gru4rec", "width", width)
    positive("gru4rec", "hidden", hidden)
    at_least("gru4rec", "layers", layers, 1)
    fraction("gru4rec", "dropout", dropout)
    loss = loss or sampled_softmax()
    return from_nnx(lambda rngs: GRU4Rec(num_items, width, hidden, layers, dropout, loss, rngs))
