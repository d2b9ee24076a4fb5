"""HSTU: layers of gated attention whose weights are not normalized over places (Zhai et al., ICML
2024).

    u, v, q, k = silu(W norm(x))
    a_ts = silu(q_t . k_s + r_{t-s}) / L   for s <= t, else 0
    x <- x + O (norm(sum_s a_ts v_s) * u)

so that the strength of an interest adds up, where a softmax would share it out. r is a learned bias
of the distance, one for each layer and head. The paper adds one of the time between two items,
which `data.sequences` do not hold, and has a softmax of cosines over 128 negatives of each place:
`cosine(sampled_softmax(0.05))`.

`B` batch, `L` places, `D` width, `H` heads.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from ...types import Model
from ..transformers.dropping import dropout, seeds
from ..transformers.layers import linear
from .next_item import ItemLoss, sampled_softmax
from .sasrec import check, norm, of_rows


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
    """Shared item rows [num_items, width] and layers of gated attention; no private part.

    Arguments that are not named here are those of `sasrec`.

    Raises:
        ValueError: as `sasrec`.

    Example:
        >>> model = models.hstu(num_items, width=8, length=10)
        >>> strategy = strategies.fedavg(model, data.sequences(10, negatives=8))
    """
    check("hstu", width, length, layers, heads, dropout)
    loss = loss or sampled_softmax()
    layer = lambda rngs: Layer(width, length, heads, dropout, rngs, (layers,))
    return of_rows(num_items, width, length, layer, dropout, loss)
