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

import jax.numpy as jnp

from ...types import Model
from .next_item import ItemLoss, item_table
from .unisrec import over_texts


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

    Arguments that are not named here are those of `unisrec`.

    Raises:
        ValueError: as `unisrec`.

    Example:
        >>> texts = {"titles": titles, "weights": bert_folder, "components": 4}
        >>> model = models.text_sasrec(num_items, **texts)
    """
    row = lambda loss: item_table(jnp.zeros((num_items, width)), loss, ("inputs", "targets"))
    return over_texts(
        "text_sasrec", row, num_items, titles, weights, tokens, components, projector, scale,
        width, length, layers, heads, dropout, loss,
    )  # fmt: skip
