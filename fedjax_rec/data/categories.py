"""Labels of which an item (or a user) may have several, such as genres: who has which.

A cell is one text with separators between its labels, as RecBole's `token_seq` (spaces), MovieLens
(`|`) or a table of one's own, or a list of texts.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from ..check import nearest
from .interactions import Interactions

COLUMNS = ("genre", "genres", "category", "categories", "class")
SEPARATORS = ("|", ";", ",", " ")


def categories(
    interactions: Interactions, column: str | None = None, separator: str | None = None
) -> tuple[list[str], np.ndarray] | None:
    """Which categories items have, of a column of the item features.

    Args:
        interactions: whose item features are read.
        column: such as "genre"; None for the first of genre, genres, category, categories and class
            that is there.
        separator: between the labels of a cell; None for the first of `|`, `;`, `,` and space that
            any cell has.

    Returns:
        (the G labels in sorted order, bool[I, G]), an item that the source is silent about with
        none; None where no column is named and there is none.

    Raises:
        ValueError: for a column that is not there.

    Example:
        >>> films = {"item_id": [1, 2], "genre": ["War", "War|Drama"]}
        >>> found = data.from_arrays("films", [0, 0], [1, 2], item_features=films)
        >>> names, has = data.categories(found)
        >>> names, has.tolist()
        (['Drama', 'War'], [[False, True], [True, True]])
    """
    table = interactions.item_features
    known = [] if table is None else table.columns
    if column is None:
        column = next((name for name in COLUMNS if name in known), None)
        if column is None:
            return None
    if table is None or column not in known:
        raise ValueError(
            f"categories(column='{column}') is no item feature of "
            f"'{interactions.name}'{nearest(column, known)}; use one of "
            f"{', '.join(known) or 'those of data that have some'}."
        )
    labels = labels_of(table[column], separator)
    names = sorted({name for one in labels for name in one})
    place = {name: at for at, name in enumerate(names)}
    has = np.zeros((len(labels), len(names)), bool)
    for row, one in enumerate(labels):
        has[row, [place[name] for name in one]] = True
    return names, has


def labels_of(values: pl.Series, separator: str | None = None) -> list[list[str]]:
    """The distinct labels of each cell, in their order; none of a null. separator: as in
    `categories`."""
    if isinstance(values.dtype, pl.List | pl.Array):
        cells = [[] if one is None else [str(x) for x in one if x is not None] for one in values]
    else:
        texts = values.cast(pl.String)
        if separator is None:
            has = lambda sign: texts.str.contains(sign, literal=True).any()
            separator = next((sign for sign in SEPARATORS if has(sign)), " ")
        cells = [[] if one is None else one.split(separator) for one in texts]
    return [list(dict.fromkeys(x.strip() for x in one if x.strip())) for one in cells]
