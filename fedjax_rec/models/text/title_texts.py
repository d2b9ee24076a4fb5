"""Titles of a catalogue as tokens: how a text says them of a history, and how it asks about one.

    text = [ opening | a title of the history, oldest first | ... | the title that is asked about ]

Tokens of each title are made once, on the host, by themselves, so that a text is put together from
them without a tokenizer.

`I` items, `H` items of a history.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ... import weights
from ...check import at_least


@dataclass(frozen=True)
class TitleTexts:
    """opening: tokens before the titles, at least one. said: tokens of each item in a history.
    asked: tokens of each item that is asked about. most: tokens of the opening and the history
    together."""

    opening: tuple[int, ...]
    said: tuple[tuple[int, ...], ...]
    asked: tuple[tuple[int, ...], ...]
    most: int

    def before(self, history: Iterable[int]) -> tuple[list[int], int]:
        """(the opening and the last titles of `history` that find room, how many find none).
        history: items, the oldest first; -1 for none."""
        items = [i for i in history if i >= 0]
        room, first = self.most - len(self.opening), len(items)
        while first and room >= len(self.said[items[first - 1]]):
            first -= 1
            room -= len(self.said[items[first]])
        kept = [token for i in items[first:] for token in self.said[i]]
        return [*self.opening, *kept], first


def title_texts(
    where: str,
    titles: Sequence[str] | None,
    tokenizer,
    opening: str,
    item: str,
    ask: str,
    most: int,
) -> TitleTexts:
    """The tokens of `titles` by `tokenizer`.

    item, ask: of a title in the history and of the one that is asked about, with `{title}`. Warns
    of items that are called alike. Raises ValueError, in a line that begins with `where`, without
    titles or for items without one, for words without a place for it, and where an opening or the
    longest title finds no room among `most` tokens.
    """
    if titles is None:
        raise ValueError(f"{where}(titles=None) has nothing to say; use data with titles.")
    if silent := [i for i, title in enumerate(titles) if not (title or "").strip()]:
        some = ", ".join(map(str, silent[:5])) + (", ..." if len(silent) > 5 else "")
        raise ValueError(
            f"{where}: {len(silent)} of {len(titles)} items have no title (ids {some}); give each "
            "one, its name if nothing more is known."
        )
    for name, words in (("item", item), ("ask", ask)):
        if "{title}" not in words:
            raise ValueError(f"{where}({name}={words!r}) has no {{title}}; say where it is.")
    of_name: dict[str, list[int]] = {}
    for i, title in enumerate(titles):
        of_name.setdefault(title, []).append(i)
    if alike := [items for items in of_name.values() if len(items) > 1]:
        warnings.warn(
            f"{where}: {sum(map(len, alike))} items share {len(alike)} titles, such as "
            f"{titles[alike[0][0]]!r} of {alike[0]}: texts cannot tell them apart, and the list "
            "that is ranked anew decides among them.",
            stacklevel=3,
        )
    (before,) = weights.begun(tokenizer, [opening])
    if not before:
        raise ValueError(f"{where}(opening={opening!r}) has no token; begin with a word.")
    said = weights.within(tokenizer, [item.format(title=title) for title in titles])
    asked = weights.within(tokenizer, [ask.format(title=title) for title in titles])
    at_least(where, "most", most, len(before) + max(map(len, said)))
    fixed = lambda rows: tuple(map(tuple, rows))
    return TitleTexts(tuple(before), fixed(said), fixed(asked), most)


def one_sequence(texts: Sequence[Sequence[int]], room: int) -> tuple[np.ndarray, ...]:
    """(tokens, places, texts, each int32[room], ends int32[K]) of K texts one after another, each
    at least one token; behind the last, text -1."""
    tokens, places = np.zeros(room, np.int32), np.zeros(room, np.int32)
    of, ends, at = np.full(room, -1, np.int32), np.zeros(len(texts), np.int32), 0
    for k, text in enumerate(texts):
        stop = at + len(text)
        tokens[at:stop], places[at:stop], of[at:stop] = text, np.arange(len(text)), k
        ends[k], at = stop - 1, stop
    return tokens, places, of, ends
