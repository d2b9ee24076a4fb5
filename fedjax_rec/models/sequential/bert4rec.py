"""BERT4Rec: masked items predicted from both sides (Sun et al., CIKM 2019).

    a share of a user's items is replaced by one mask vector; the loss is at those places
    h = encoder(all places),  score(i at t) = norm(gelu(W h_t)) . q_i

To score, the mask stands at the right end, after the history. The encoder is that of `sasrec`
without the causal mask, with a GELU layer of four times the width; layers normalize what goes in,
not what comes out, which trains without a warm-up. It reads the field `targets` of
`data.sequences`: the user's last `L` items of the window.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from ...check import fraction
from ...types import Model
from ..roles import from_nnx
from ..transformers.dropping import dropout, seeds
from ..transformers.layers import linear, stacked
from .next_item import ItemLoss, item_table, sampled_softmax, score_rows
from .sasrec import Block, check, norm, positioned


class BERT4Rec(nnx.Module):
    def __init__(self, num_items, width, length, layers, heads, rate, masked, last, loss, rngs):
        draw = lambda *shape: 0.02 * jax.random.normal(rngs.params(), shape)
        self.item = item_table(draw(num_items, width), loss, ("targets",))
        self.position, self.blank = nnx.Param(draw(length, width)), nnx.Param(draw(width))
        self.layers = Block(width, 4 * width, heads, rate, jax.nn.gelu, rngs, (layers,))
        self.head, self.norm = linear(rngs, width, width), norm(width)
        self.rate, self.masked, self.last = rate, masked, last
        self.objective, self.num_items = loss, num_items

    def states(self, rows, real, seed=None):
        """[..., L, D] of rows [..., L, D], the mask vector among them, and bool[..., L]."""
        first, rest = seeds(seed, 2)
        x = dropout(first, positioned(rows, self.position[...]), self.rate)
        x, _ = stacked(self.layers, (x, rest), real[..., None, :])
        return self.norm(jax.nn.gelu(self.head(x)))

    def loss(self, batch, key):
        of_places, of_last, of_dropout = jax.random.split(key, 3)
        real = (batch["real"] * batch["mask"][:, None]) > 0
        chosen = jax.random.bernoulli(of_places, self.masked, real.shape)
        end = jnp.arange(real.shape[1]) == real.shape[1] - 1
        only_last = jax.random.bernoulli(of_last, self.last, (real.shape[0], 1))
        chosen = jnp.where(only_last, end, chosen) & real
        rows = jnp.where(chosen[..., None], self.blank[...], self.item[batch["targets"]])
        seed = jax.random.bits(of_dropout, (), jnp.uint32)
        states, counts = self.states(rows, real, seed), chosen.astype(rows.dtype)
        return self.objective.value(states, self.item, "targets", batch, counts, self.num_items)

    def read(self, history):
        # The mask takes the place of the oldest item, if there is no other left.
        history = history[-(self.position.shape[0] - 1) :]
        rows = jnp.concatenate([self.item[jnp.maximum(history, 0)], self.blank[...][None]])
        return self.states(rows, jnp.append(history >= 0, True))[-1]

    score = score_rows


def bert4rec(
    num_items: int,
    members: int = 1,
    width: int = 64,
    length: int = 50,
    layers: int = 2,
    heads: int = 2,
    dropout: float = 0.2,
    masked: float = 0.3,
    last: float = 0.1,
    loss: ItemLoss | None = None,
) -> Model:
    """Shared item rows [num_items, width] and layers that look both ways; `loss` is taken at the
    masked places.

    Arguments that are not named here are those of `sasrec`.

    Args:
        masked: share of places that are masked in training.
        last: share of examples of which only the last place is, as it is when scoring.

    Raises:
        ValueError: as `sasrec`, and for shares outside 0 .. 1.

    Example:
        >>> model = models.bert4rec(num_items, width=8, length=10, loss=models.gbce(0.75))
        >>> strategy = strategies.fedavg(model, data.sequences(10, negatives=8))
    """
    check("bert4rec", width, length, layers, heads, dropout)
    fraction("bert4rec", "masked", masked)
    fraction("bert4rec", "last", last)
    loss = loss or sampled_softmax()
    return from_nnx(
        lambda rngs: BERT4Rec(
            num_items, width, length, layers, heads, dropout, masked, last, loss, rngs
        )
    )
