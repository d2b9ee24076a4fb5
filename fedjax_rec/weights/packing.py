"""Several short texts in one sequence of tokens, laid out on the host.

    texts in order of length, longest first, each into the first sequence with room for it

(first-fit decreasing: at most 11/9 of the fewest sequences and 6/9 of one more; Dósa, 2007.) What
stands in a sequence may see its own text alone, see `models.transformers.packed`.

`n` texts, `T` most tokens of one, `m` sequences, `S` tokens of one, `K` most texts of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..check import at_least


class Layout(NamedTuple):
    """of: int32[m, K], the text in each place of a sequence, -1 for none. texts: int32[m, S], the
    place in `of` of each token's text, -1 behind the last; places: int32[m, S], where the token
    stands in its text; ends: int32[m, K], where a text's last token stands. waste: the share of
    tokens that are none of a text, in [0, 1)."""

    of: np.ndarray
    texts: np.ndarray
    places: np.ndarray
    ends: np.ndarray
    waste: float


def first_fit(sizes: Sequence[int] | np.ndarray, room: int) -> Layout:
    """Texts of `sizes` tokens in sequences of `room` tokens.

    Args:
        sizes: int[n], each at least 1.
        room: S.

    Raises:
        ValueError: for a text that is empty, or longer than `room`.
    """
    sizes = np.asarray(sizes, np.int64)
    if sizes.size:
        at_least("first_fit", "sizes", int(sizes.min()), 1)
        at_least("first_fit", "room", room, int(sizes.max()))
    inside: list[list[int]] = []
    left = np.zeros(len(sizes), np.int64)  # of the sequences that there are, 0 for others
    for text in np.argsort(-sizes, kind="stable"):
        size = int(sizes[text])
        fitting = left[: len(inside)] >= size
        row = int(fitting.argmax()) if fitting.any() else len(inside)
        if row == len(inside):
            inside.append([])
            left[row] = room
        inside[row].append(int(text))
        left[row] -= size
    most = max(map(len, inside), default=0)
    of, ends = np.full((len(inside), most), -1, np.int32), np.zeros((len(inside), most), np.int32)
    texts = np.full((len(inside), room), -1, np.int32)
    places = np.zeros((len(inside), room), np.int32)
    for row, chosen in enumerate(inside):
        # In the order in which they were given, so that a sequence does not tell lengths.
        start = 0
        for place, text in enumerate(sorted(chosen)):
            stop = start + int(sizes[text])
            of[row, place], ends[row, place] = text, stop - 1
            texts[row, start:stop], places[row, start:stop] = place, np.arange(stop - start)
            start = stop
    used = int(sizes.sum()) / max(texts.size, 1)
    return Layout(of, texts, places, ends, 1.0 - used if texts.size else 0.0)


def common_start(tokens: np.ndarray, sizes: np.ndarray) -> int:
    """How many tokens all texts `tokens` int[n, T] begin with, of which `sizes` int[n] are real; at
    least one of each text is left."""
    most = int(np.min(sizes)) - 1
    alike = (tokens[:, :most] == tokens[:1, :most]).all(0)
    return most if alike.all() else int(alike.argmin())
