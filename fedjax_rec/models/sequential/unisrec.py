"""UniSRec: self-attention over the texts of a user's items (Hou et al., KDD 2022).

    q_i = P(e_i),   score(next = i) = SASRec(q_{i_1}, ..., q_{i_T}) . q_i

e_i is the frozen, whitened embedding of the item's text, P a shared projector. Neither items nor
users have parameters of their own: an item without interactions is ranked by its text, and a user
who took no part in training by his history. The paper's is trained on several domains first, by
contrast, through a mixture of experts with a learned whitening; this one is of one domain, with the
projector and the whitening of `text_tower`.

`I` items, `L` places, `D` width, `E` width of a whitened embedding.
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
from ..transformers.lora import freeze, lora
from .next_item import ItemLoss, sampled_softmax
from .sasrec import Block, SASRec, check


class Texts(nnx.Module):
    """Vectors [..., D] of ids int[...] or all: of text [I, E], plus row [I, D] where there is
    one."""

    def __init__(self, text, project, row=None):
        self.text, self.project, self.row = Frozen(jnp.asarray(text)), project, row

    def __getitem__(self, ids):
        vectors = self.project(self.text[ids])
        return vectors if self.row is None else vectors + self.row[ids]

    def all(self):
        return self[:]


def unisrec(
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
    rank: int | None = None,
    alpha: float = 16.0,
    targets: str = "item.project.layers.*|layers.*",
) -> Model:
    """Shared projector and layers; no private part and no row tables. Train it on
    `data.sequences(length)`; it scores from the user's last `length` items.

    Arguments that are not named here are those of `sasrec`.

    Args:
        titles: I texts, of which `tokens` tokens count.
        weights: of their embeddings, as in `text_tower`.
        tokens: most tokens of a text.
        components: of the whitened embeddings.
        projector: widths of its layers between, () for a linear one.
        scale: deviation of what it first makes.
        rank: of adapters beside layers that are frozen, with all else; None for no adapters, and
            all is trained. Start from a run without them.
        alpha: as in `lora`.
        targets: patterns of `item.project.layers.0`, `.1`, ..., and of `layers.query`, `.key`,
            `.value`, `.out`, `.up` and `.down`.

    Raises:
        ValueError: without a text for each item, as `text_tower`, as `sasrec` and as `lora`.

    Example:
        >>> model = models.unisrec(num_items, titles=titles, weights=bert_folder, components=4)
        >>> examples = data.sequences(10, negatives=8)
    """
    around = lambda module, rngs: module
    if rank is not None:
        around = lambda module, rngs: lora(freeze(module), rngs, targets, rank, alpha)
    return over_texts(
        "unisrec", lambda loss: None, num_items, titles, weights, tokens, components, projector,
        scale, width, length, layers, heads, dropout, loss, around,
    )  # fmt: skip


def over_texts(
    where, row, num_items, titles, weights, tokens, components, projector, scale, width, length,
    layers, heads, dropout, loss, around=lambda module, rngs: module,
) -> Model:  # fmt: skip
    """`SASRec` over `Texts`, of the arguments of `unisrec`. row(loss): the rows beside the texts,
    or None. around(module, rngs): what is made of it."""
    check(where, width, length, layers, heads, dropout)
    positive(where, "scale", scale)
    at_least(where, "tokens", tokens, 3)
    for size in projector:
        at_least(where, "projector", size, 1)
    text = whitened(where, titles, num_items, weights, tokens, components)
    loss = loss or sampled_softmax()
    block = lambda rngs: Block(width, width, heads, dropout, jax.nn.relu, rngs, (layers,))

    def build(rngs):
        item = Texts(text, Projector(rngs, text.shape[1], projector, width, scale), row(loss))
        return around(SASRec(item, num_items, width, length, block, dropout, loss, rngs), rngs)

    return from_nnx(build)
