"""SASRec over items that are a text and a row of their own: what text does not say is learned.

    q_i = P(e_i) + r_i,   score(next = i) = SASRec(q_{i_1}, ..., q_{i_T}) . q_i

e_i is the frozen, whitened embedding of the item's text, P a shared projector, r_i a row that
starts at zero. UniSRec calls such items transductive (Hou et al., KDD 2022, section 3.3); those of
`unisrec` have no row, those of `sasrec` no text. An item that nobody trained on is ranked by its
text. A client sends the rows that it touched, and P whole.

`I` items, `D` width, `E` width of a whitened embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from ...check import at_least, positive
from ...types import Model
from ..roles import Frozen, from_nnx
from ..text.text_tower import Projector, whitened
from .next_item import ItemLoss, item_table, sampled_softmax
from .sasrec import Block, SASRec, check


class TextsAndRows(nnx.Module):
    """Vectors [..., D] of ids int[...] or all: text [I, E] under `project`, and row [I, D]."""

    def __init__(self, text, project, row):
        self.text, self.project, self.row = Frozen(jnp.asarray(text)), project, row

    def __getitem__(self, ids):
        return self.project(self.text[ids]) + self.row[ids]

    def all(self):
        return self.project(self.text[...]) + self.row[:]


def text_sasrec(
    num_items: int,
    members: int = 1,
    titles: Sequence[str] | None = None,
    weights: str = "minilm",
    tokens: int = 128,
    components: int = 128,
    projector: Sequence[int] = (),
    scale: float = 0.1,
    width: int = 64,
    length: int = 50,
    layers: int = 2,
    heads: int = 1,
    dropout: float = 0.2,
    loss: ItemLoss | None = None,
) -> Model:
    """Shared item rows [num_items, width], projector and layers; no private part. Train it on
    `data.sequences(length)`; it scores from the user's last `length` items.

    Arguments are those of `unisrec`.

    Raises:
        ValueError: as `unisrec`.

    Example:
        >>> texts = {"titles": titles, "weights": bert_folder, "components": 4}
        >>> model = models.text_sasrec(num_items, **texts)
    """
    check("text_sasrec", width, length, layers, heads, dropout)
    positive("text_sasrec", "scale", scale)
    at_least("text_sasrec", "tokens", tokens, 3)
    for size in projector:
        at_least("text_sasrec", "projector", size, 1)
    text = whitened("text_sasrec", titles, num_items, weights, tokens, components)
    loss = loss or sampled_softmax()
    block = lambda rngs: Block(width, width, heads, dropout, jax.nn.relu, rngs, (layers,))

    def build(rngs):
        row = item_table(jnp.zeros((num_items, width)), loss, ("inputs", "targets"))
        item = TextsAndRows(text, Projector(rngs, text.shape[1], projector, width, scale), row)
        return SASRec(item, num_items, width, length, block, dropout, loss, rngs)

    return from_nnx(build)
