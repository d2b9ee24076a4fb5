"""What items are called: the text that language models read of a catalogue."""

from __future__ import annotations

from ..interactions import Interactions

TITLES = ("movie_title", "title", "name")


def titles(interactions: Interactions, genres: bool = True) -> list[str] | None:
    """A line of text for each item, e.g. "Toy Story (1995), Animation Comedy".

    Args:
        interactions: whose item features are read.
        genres: say them too.

    Returns:
        `I` texts, an item that the source is silent about by its id; None where the source does not
        describe its items.

    Example:
        >>> texts = data.titles(films, genres=False)
    """
    features = interactions.item_features
    if features is None:
        return None
    column = next((name for name in TITLES if name in features.columns), None)
    if column is None:
        return None
    lines = []
    for id, row in zip(interactions.item_names, features.iter_rows(named=True), strict=True):
        line = str(row[column] or f"item {id}")
        if row.get("release_year") and f"({row['release_year']})" not in line:
            line += f" ({row['release_year']})"
        if genres and row.get("genre"):
            line += f", {row['genre']}"
        lines.append(line)
    return lines
