"""Item rows that begin at what the items' texts say, and are then trained like any other.

    q_i = scale * z_i,   z = the texts' embeddings along D principal directions, each of variance 1

for any model with a table of item rows. It costs nothing while the model runs: no text is read in
training, and none is needed afterwards. After Harte et al., "Leveraging large language models for
sequential recommendation" (RecSys 2023), who begin BERT4Rec and SASRec at embeddings that PCA has
made narrow; whitened here, so that rows begin as long in every direction.

`I` items, `D` width.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax

from ... import trees
from ...check import at_least, positive
from ...types import Model
from ..sequential.hstu import hstu
from ..sequential.next_item import ItemLoss
from ..sequential.sasrec import sasrec
from ..started import started
from .text_tower import whitened


def text_rows(
    model: Model,
    num_items: int,
    titles: Sequence[str] | None = None,
    weights: str = "minilm",
    tokens: int = 128,
    scale: float = 0.02,
) -> Model:
    """`model` whose table of item rows begins at the texts of the items, in place of draws.

    Args:
        model: that shares one table [I, D], such as `sasrec`, `hstu`, `gru4rec` or `fedmf`.
        num_items: `I`, the items of the catalogue.
        titles: I texts, which a run knows.
        weights: whose embeddings, a name or folder as in `load_encoder`.
        tokens: most tokens of a text.
        scale: deviation of the first rows. Positive.

    Raises:
        ValueError: for a model that shares no table of I rows or several, without a text for each
            item, and for a model that is wider than the texts have directions.

    Example:
        >>> model = models.sasrec(num_items, width=4, length=10)
        >>> model = models.text_rows(model, num_items, titles, bert_folder)
    """
    positive("text_rows", "scale", scale)
    at_least("text_rows", "tokens", tokens, 3)
    name, table = table_of("text_rows", model, num_items)
    text = whitened("text_rows", titles, num_items, weights, tokens, table.shape[1])
    return started(model, {name: scale * text})


def sasrec_from_texts(
    num_items: int,
    members: int = 1,
    titles: Sequence[str] | None = None,
    weights: str = "minilm",
    tokens: int = 128,
    scale: float = 0.02,
    width: int = 64,
    length: int = 50,
    layers: int = 2,
    heads: int = 1,
    dropout: float = 0.2,
    loss: ItemLoss | None = None,
) -> Model:
    """`text_rows` of `sasrec`.

    Arguments that are not named here are those of `sasrec` and `text_rows`.

    Raises:
        ValueError: as the two.

    Example:
        >>> model = models.sasrec_from_texts(num_items, 1, titles, bert_folder, width=4)
    """
    model = sasrec(num_items, members, width, length, layers, heads, dropout, loss)
    return text_rows(model, num_items, titles, weights, tokens, scale)


def hstu_from_texts(
    num_items: int,
    members: int = 1,
    titles: Sequence[str] | None = None,
    weights: str = "minilm",
    tokens: int = 128,
    scale: float = 0.02,
    width: int = 64,
    length: int = 50,
    layers: int = 2,
    heads: int = 1,
    dropout: float = 0.2,
    loss: ItemLoss | None = None,
) -> Model:
    """`text_rows` of `hstu`.

    Arguments that are not named here are those of `hstu` and `text_rows`.

    Raises:
        ValueError: as the two.

    Example:
        >>> model = models.hstu_from_texts(num_items, 1, titles, bert_folder, width=4)
    """
    model = hstu(num_items, members, width, length, layers, heads, dropout, loss)
    return text_rows(model, num_items, titles, weights, tokens, scale)


def table_of(where: str, model: Model, num_items: int) -> tuple[str, jax.ShapeDtypeStruct]:
    """(key path, outline) of the table of item rows that `model` shares. Raises ValueError where it
    has none of `num_items` rows, or several; where: who asks."""
    outline = trees.trainable(jax.eval_shape(model.init, jax.random.key(0))[0])
    of_items = {
        name: x
        for name, x in trees.named(outline).items()
        if x.ndim == 2 and x.shape[0] == num_items
    }
    if len(of_items) != 1:
        raise ValueError(
            f"{where}(model) has {', '.join(of_items) or 'no table'} of {num_items} rows; use a "
            "model that shares one table of items, such as models.sasrec."
        )
    return next(iter(of_items.items()))
