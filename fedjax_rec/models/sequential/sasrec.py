"""SASRec: self-attention over a user's items, in the order of time (Kang & McAuley, ICDM 2018).

    x_t = sqrt(D) q_{i_t} + p_t
    x <- x + attention(norm(x)),  x <- x + W2 relu(W1 norm(x)),    twice, looking back only
    score(next = i) = norm(x_T) . q_i

Places count from the right end, so that the last item is always at the same one. Dropout is on the
embedding and on what each layer adds.

`B` batch, `L` places, `D` width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from ...check import at_least, fraction, positive
from ...types import Model
from ..roles import from_nnx
from ..transformers.dropping import dropout, seeds
from ..transformers.layers import LayerNorm, attention, linear, stacked
from .next_item import ItemLoss, item_table, loss_of_next, read_last, sampled_softmax, score_rows


class Block(nnx.Module):
    """One layer; `lead` are the leading axes of its variables, see `layers.stacked`."""

    def __init__(self, width, inner, heads, rate, activation, rngs, lead=()):
        self.query, self.key, self.value, self.out, self.up, self.down = (
            linear(rngs, a, b, lead=lead)
            for a, b in [(width, width)] * 4 + [(width, inner), (inner, width)]
        )
        self.before, self.between = (norm(width, lead) for _ in range(2))
        self.heads, self.rate, self.activation = heads, rate, activation

    def __call__(self, carry, mask):
        x, seed = carry
        after, one, two = seeds(seed, 3)
        q, k, v = self.attended(x)
        y = attention(q, k, v, mask)
        return self.finish(x, y.reshape(x.shape), one, two), after

    def attended(self, x):
        """(query, key, value) [..., H, d] of x [..., D]."""
        y = self.before(x)
        split = lambda y: y.reshape(*y.shape[:-1], self.heads, -1)
        return tuple(split(f(y)) for f in (self.query, self.key, self.value))

    def finish(self, x, mixed, one=None, two=None):
        """What comes of x and the values that it attended to, both [..., D]; one, two: seeds of
        dropout."""
        x = x + dropout(one, self.out(mixed), self.rate)
        y = self.down(self.activation(self.up(self.between(x))))
        return x + dropout(two, y, self.rate)


def norm(width: int, lead=()) -> LayerNorm:
    return LayerNorm(jnp.ones((*lead, width)), jnp.zeros((*lead, width)), eps=1e-6)


class SASRec(nnx.Module):
    """item: a table [I, D], or a module indexed like one. layers(rngs): a stack of the layers that
    attend, see `layers.stacked`."""

    def __init__(self, item, num_items, width, length, layers, rate, loss, rngs):
        self.item = item
        self.position = nnx.Param(0.02 * jax.random.normal(rngs.params(), (length, width)))
        self.layers = layers(rngs)
        self.norm = norm(width)
        self.rate, self.objective, self.num_items = rate, loss, num_items

    @property
    def prepare(self):
        """None for a table, whose rows are at hand."""
        return None if isinstance(self.item, nnx.Variable) else self.item.all

    def states(self, rows, real, seed=None):
        """[..., L, D] of item rows [..., L, D] and bool[..., L]."""
        first, rest = seeds(seed, 2)
        x = dropout(first, positioned(rows, self.position[...]), self.rate)
        x, _ = stacked(self.layers, (x, rest), looking_back(real))
        return self.norm(x)

    loss, read, score = loss_of_next, read_last, score_rows


def drawn_items(num_items: int, width: int, loss: ItemLoss, rngs) -> nnx.Param:
    """A row [D] of its own for each item."""
    values = 0.02 * jax.random.normal(rngs.params(), (num_items, width))
    return item_table(values, loss, ("inputs", "targets"))


def of_rows(num_items, width, length, layers, rate, loss: ItemLoss) -> Model:
    """`SASRec` with a row for each item; layers(rngs): as there."""

    def build(rngs):
        item = drawn_items(num_items, width, loss, rngs)
        return SASRec(item, num_items, width, length, layers, rate, loss, rngs)

    return from_nnx(build)


def positioned(rows: jax.Array, positions: jax.Array) -> jax.Array:
    """sqrt(D) rows + positions, counted from the right end. Raises ValueError for more rows than
    positions."""
    length, known = rows.shape[-2], positions.shape[0]
    if length > known:
        raise ValueError(
            f"the model has length={known} places and read {length} items; make it "
            f"with length={length}, or train on sequences(length={known})."
        )
    return rows.shape[-1] ** 0.5 * rows + positions[known - length :]


def looking_back(real: jax.Array) -> jax.Array:
    """bool[..., L, L]: which places each place attends to, itself and the real ones before it."""
    length = real.shape[-1]
    back = jnp.tril(jnp.ones((length, length), bool))
    return back & (real[..., None, :] | jnp.eye(length, dtype=bool))


def sasrec(
    num_items: int,
    members: int = 1,
    width: int = 64,
    length: int = 50,
    layers: int = 2,
    heads: int = 1,
    dropout: float = 0.2,
    loss: ItemLoss | None = None,
) -> Model:
    """Shared item rows [num_items, width] and layers; no private part. Train it on
    `data.sequences(length)`; it scores from the user's last `length` items.

    Args:
        num_items: `I`, the items of the catalogue.
        members: taken as every model takes it; users have no parameters.
        width: `D`, of which each of the `heads` has a part.
        length: `L`, most items that it reads.
        layers: of attention, one on another.
        heads: of a layer.
        dropout: the share that is left out in training.
        loss: default `sampled_softmax()`.

    Raises:
        ValueError: for sizes below 1, a dropout outside 0 .. 1, and where heads do not divide the
            width.

    Example:
        >>> model = models.sasrec(num_items, width=8, length=10)
        >>> strategy = strategies.fedavg(model, data.sequences(10, negatives=8))
    """
    check("sasrec", width, length, layers, heads, dropout)
    loss = loss or sampled_softmax()
    block = lambda rngs: Block(width, width, heads, dropout, jax.nn.relu, rngs, (layers,))
    return of_rows(num_items, width, length, block, dropout, loss)


def check(where: str, width, length, layers, heads, dropout) -> None:
    """The sizes of a sequential model."""
    positive(where, "width", width)
    fraction(where, "dropout", dropout)
    for name, value in (("length", length), ("layers", layers), ("heads", heads)):
        at_least(where, name, value, 1)
    if width % heads:
        raise ValueError(
            f"{where}(heads={heads}) does not divide width={width}; use a divisor of the width."
        )
