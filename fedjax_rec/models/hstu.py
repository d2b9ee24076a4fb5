"""HSTU: layers of gated attention whose weights are not normalized over places (Zhai et al., ICML
2024).

    u, v, q, k = silu(W norm(x))
    a_ts = silu(q_t . k_s + r_{t-s}) / L   for s <= t, else 0
    x <- x + O (norm(sum_s a_ts v_s) * u)

so that the strength of an interest adds up, where a softmax would share it out. r is a learned bias
of the distance, one for each layer and head. The paper adds one of the time between two items,
which `data.sequences` do not hold, and draws on 128 negatives with softmax.

`B` batch, `L` places, `D` width, `H` heads.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from ..types import Model
from .dropping import dropout, seeds
from .layers import linear, stacked
from .next_item import ItemLoss, item_table, sampled_softmax
from .roles import from_nnx
from .sasrec import check, looking_back, norm, positioned


class Layer(nnx.Module):
    """One layer; `lead` are the leading axes of its variables, see `layers.stacked`."""

    def __init__(self, width, length, heads, rate, rngs, lead=()):
        self.gate, self.value, self.query, self.key, self.out = (
            linear(rngs, width, width, lead=lead) for _ in range(5)
        )
        self.before, self.after = norm(width, lead), norm(width, lead)
        self.distance = nnx.Param(jnp.zeros((*lead, heads, length)))
        self.heads, self.rate = heads, rate

    def __call__(self, carry, mask):
        x, seed = carry
        following, drop = seeds(seed, 2)
        split = lambda y: y.reshape(*y.shape[:-1], self.heads, -1)
        y, silu = self.before(x), jax.nn.silu
        v, q, k = (split(silu(f(y))) for f in (self.value, self.query, self.key))
        places = jnp.arange(x.shape[-2])
        bias = self.distance[...][:, jnp.maximum(places[:, None] - places, 0)]
        weights = silu(jnp.einsum("...thd,...shd->...hts", q, k) + bias)
        weights = jnp.where(mask[..., None, :, :], weights, 0) / self.distance.shape[-1]
        mixed = jnp.einsum("...hts,...shd->...thd", weights, v).reshape(x.shape)
        y = self.after(mixed) * silu(self.gate(y))
        return x + self.out(dropout(drop, y, self.rate)), following


class HSTU(nnx.Module):
    def __init__(self, num_items, width, length, layers, heads, rate, loss, rngs):
        draw = lambda *shape: 0.02 * jax.random.normal(rngs.params(), shape)
        self.item = item_table(draw(num_items, width), loss, ("inputs", "targets"))
        self.position = nnx.Param(draw(length, width))
        self.layers = Layer(width, length, heads, rate, rngs, (layers,))
        self.norm = norm(width)
        self.rate, self.objective, self.num_items = rate, loss, num_items

    def states(self, rows, real, seed=None):
        """[..., L, D] of item rows [..., L, D] and bool[..., L]."""
        first, rest = seeds(seed, 2)
        x = dropout(first, positioned(rows, self.position[...]), self.rate)
        x, _ = stacked(self.layers, (x, rest), looking_back(real))
        return self.norm(x)

    def loss(self, batch, key):
        real = batch["real"] * batch["mask"][:, None]
        seed = jax.random.bits(key, (), jnp.uint32)
        states = self.states(self.item[batch["inputs"]], real > 0, seed)
        value = self.objective.value
        return value(states, self.item, "targets", batch, real, self.num_items)

    def read(self, history):
        return self.states(self.item[jnp.maximum(history, 0)], history >= 0)[-1]

    def score(self, items, user, reading):
        return self.item[items] @ reading


def hstu(
    num_items: int,
    members: int = 1,
    width: int = 64,
    length: int = 50,
    layers: int = 2,
    heads: int = 1,
    dropout: float = 0.2,
    loss: ItemLoss | None = None,
) -> Model:
    """As `sasrec`, with the layers of HSTU. Raises ValueError as `sasrec`."""
    check("hstu", width, length, layers, heads, dropout)
    loss = loss or sampled_softmax()
    return from_nnx(lambda rngs: HSTU(num_items, width, length, layers, heads, dropout, loss, rngs))
