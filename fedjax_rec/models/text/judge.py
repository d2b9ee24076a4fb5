"""A decoder as judge of short lists: what it makes of each item after the titles of a history.

The opening and the history of a user are read once (`packed.read`); the titles of the list stand in
one sequence after it, each of which sees the history and itself (`packed.Packing`). Numbers are
those of each title in a text of its own, to 1e-4 (`tests/models/test_title_judges.py`).

`U` users, `H` items of a history, `K` of a list, `P` and `T` tokens of the two, padded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial

import jax
import numpy as np
from flax import nnx

from ...check import at_least
from ...made import part
from ...types import Array
from ..transformers.decoder import Decoder
from ..transformers.packed import Packing, read
from .title_texts import TitleTexts, one_sequence

STEP_BEFORE, STEP_LIST = 16, 32  # lengths are padded to multiples: a program for each


@part
class Judge:
    """What a decoder thinks of items by their titles. See `title_likelihood` and `title_answers`.

    decoder: frozen. texts: its titles as tokens.
    score(decoder, last [D], list, reading) -> float32[K]: of the items of one list, where `last` is
    the state behind the last token of the history, and list what `one_sequence` gives.
    """

    decoder: Decoder
    texts: TitleTexts
    score: Callable[..., jax.Array]

    @property
    def num_items(self) -> int:
        """`I`, of the catalogue."""
        return len(self.texts.asked)

    @cached_property
    def call(self) -> Callable[..., jax.Array]:
        """The compiled score of one list, by (tokens int32[P], size, list)."""
        structure, variables = nnx.split(self.decoder)
        return partial(_judged, structure, self.score, variables)


@partial(jax.jit, static_argnums=(0, 1))
def _judged(structure, score, variables, before, size, items):
    decoder = nnx.merge(structure, variables)
    x, reading = read(decoder, decoder.embed(before))
    return score(decoder, x[size - 1], items, replace(reading, size=size))


def judged(
    judge: Judge, histories: Array, lists: Array, told: Callable[[int], None] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """What a judge makes of the list of each user.

    Args:
        judge: whose catalogue the items are of.
        histories: int[U, H], items from the oldest to the newest, -1 for none.
        lists: int[U, K], items, -1 for none.
        told: is called with how many users are done after each; None for nobody.

    Returns:
        (float32[U, K], -inf where there is no item; int[U], how many items of a history found no
        room.)

    Raises:
        ValueError: for an item that is not in the catalogue, a list of none, and histories of other
            users than the lists.

    Example:
        >>> judge = models.title_likelihood(titles, decoder_folder, opening="499", most=20)
        >>> scores, cut = models.judged(judge, [[0, 1]], [[2, 3, -1]])
        >>> scores.shape, cut.tolist()
        ((1, 3), [0])
    """
    histories, lists = np.asarray(histories), np.asarray(lists)
    if histories.ndim != 2 or lists.ndim != 2 or len(histories) != len(lists):
        raise ValueError(
            f"judged(histories: {list(histories.shape)}, lists: {list(lists.shape)}); give both of "
            "the same users, [U, H] and [U, K]."
        )
    at_least("judged", "K", lists.shape[1], 1)
    most = max(int(x.max(initial=-1)) for x in (histories, lists))
    if most >= judge.num_items:
        raise ValueError(
            f"judged(): item {most} is asked about and there are titles of {judge.num_items}, "
            "counted from 0; give the titles of the same data."
        )
    texts = judge.texts
    begun = [texts.before(history) for history in histories.tolist()]
    asked = [[texts.asked[i] for i in items if i >= 0] for items in lists.tolist()]
    padded = lambda n, step: max(-(-n // step), 1) * step
    room = [padded(sum(map(len, one)), STEP_LIST) for one in asked]
    first = [min(padded(len(one), STEP_BEFORE), texts.most) for one, _ in begun]
    scores = np.full(lists.shape, -np.inf, np.float32)
    # Users of one program come one after another.
    for done, u in enumerate(sorted(range(len(lists)), key=lambda u: (first[u], room[u])), 1):
        tokens, _ = begun[u]
        before = np.zeros(first[u], np.int32)
        before[: len(tokens)] = tokens
        here = np.flatnonzero(lists[u] >= 0)
        if len(here):
            *rows, ends = one_sequence(asked[u], room[u])
            ends = np.pad(ends, (0, lists.shape[1] - len(here)))
            made = judge.call(before, np.int32(len(tokens)), (*rows, ends))
            scores[u, here] = np.asarray(made)[: len(here)]
        if told is not None:
            told(done)
    return scores, np.array([cut for _, cut in begun], np.int64)


def packing_of(items) -> Packing:
    """Who sees whom in a list, as `one_sequence` lays it out."""
    _, places, of, _ = items
    return Packing(places, of)


def alone(judge: Judge, items: Array, at_once: int = 20) -> np.ndarray:
    """What a judge makes of items after the opening alone, without a history.

    Args:
        judge: whose catalogue the items are of.
        items: int[...], -1 for none; each is asked about once.
        at_once: items of one list.

    Returns:
        float32[I], NaN for items that were not asked about.

    Raises:
        ValueError: for at_once < 1, and as `judged`.

    Example:
        >>> judge = models.title_likelihood(titles, decoder_folder, opening="499", most=20)
        >>> prior = models.alone(judge, [2, 3], at_once=2)
        >>> int((~np.isnan(prior)).sum())
        2
    """
    at_least("alone", "at_once", at_once, 1)
    wanted = np.unique(np.asarray(items))
    wanted = wanted[wanted >= 0]
    # Those of like length share a sequence, and so a program.
    wanted = wanted[np.argsort([len(judge.texts.asked[i]) for i in wanted], kind="stable")]
    lists = np.full((-(-len(wanted) // at_once), at_once), -1)
    lists.reshape(-1)[: len(wanted)] = wanted
    found = np.full(judge.num_items, np.nan, np.float32)
    scores, _ = judged(judge, np.full((len(lists), 1), -1), lists)
    found[lists[lists >= 0]] = scores[lists >= 0]
    return found
