"""The laws of a judge of lists: what it makes of an item is of the history and the item alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..models import Judge, alone, judged
from .laws import Kind, check, expect, same_bits

TOLERANCE = 2e-4  # of sequences that are laid out otherwise


@dataclass(frozen=True)
class Judging:
    part: Judge
    history: list[int]
    items: list[int]
    scores: np.ndarray  # [K] of the items after the history


def _bench(judge: Judge) -> Judging:
    many = judge.num_items
    if many < 6:
        raise ValueError(f"a catalogue of {many} items is too small; give a judge of 6 or more.")
    history, items = [0, 1, 2], [many - 1, 3, many // 2, 4]
    return Judging(judge, history, items, _of(judge, history, items))


def _of(judge: Judge, history: list[int], items: list[int]) -> np.ndarray:
    return judged(judge, [history], [items])[0][0]


def scores_are_one_a_place(this: Judging) -> None:
    """judged(...) is float32[U, K], finite for items and -inf where there is none."""
    scores, cut = judged(this.part, [this.history, [-1, -1, 5]], [[1, -1, 2], [-1, -1, -1]])
    expect(scores.shape == (2, 3) and scores.dtype == np.float32, f"{scores.dtype}{scores.shape}")
    there = np.array([[True, False, True], [False] * 3])
    expect(np.isfinite(scores[there]).all(), f"{scores}")
    expect((scores[~there] == -np.inf).all(), f"{scores}")
    expect(cut.shape == (2,), f"cut is {cut}")


def neighbours_say_nothing(this: Judging) -> None:
    """An item is worth the same in any list and at any place of it."""
    turned = _of(this.part, this.history, this.items[::-1])[::-1]
    np.testing.assert_allclose(turned, this.scores, rtol=TOLERANCE, atol=TOLERANCE)
    for k, item in enumerate(this.items):
        one = _of(this.part, this.history, [item])
        np.testing.assert_allclose(one[0], this.scores[k], rtol=TOLERANCE, atol=TOLERANCE)


def users_are_apart(this: Judging) -> None:
    """Who else is asked about changes nothing."""
    both, _ = judged(this.part, [[-1, -1, 4], this.history], [[0, 1, 2, 3], this.items])
    np.testing.assert_allclose(both[1], this.scores, rtol=TOLERANCE, atol=TOLERANCE)


def the_history_is_heard(this: Judging) -> None:
    """Another history gives other scores, and none what `alone` says."""
    other = _of(this.part, this.history[::-1], this.items)
    expect(np.abs(other - this.scores).max() > 0, "the same after a history that is turned round")
    without = _of(this.part, [-1], this.items)
    prior = alone(this.part, this.items)[this.items]
    np.testing.assert_allclose(prior, without, rtol=TOLERANCE, atol=TOLERANCE)


def the_oldest_are_left_out_and_counted(this: Judging) -> None:
    """Of a history that is too long the last items are read, and the others counted."""
    long = [i % this.part.num_items for i in range(this.part.texts.most + 3)]
    scores, cut = judged(this.part, [long], [this.items])
    expect(0 < cut[0] < len(long), f"{cut[0]} of {len(long)} items were left out")
    kept = _of(this.part, long[cut[0] :], this.items)
    np.testing.assert_allclose(scores[0], kept, rtol=TOLERANCE, atol=TOLERANCE)


def it_says_the_same_again(this: Judging) -> None:
    """A function of its arguments."""
    same_bits(_of(this.part, this.history, this.items), this.scores)


JUDGE = Kind(
    "judge",
    _bench,
    (
        scores_are_one_a_place, neighbours_say_nothing, users_are_apart, the_history_is_heard,
        the_oldest_are_left_out_and_counted, it_says_the_same_again,
    ),
)  # fmt: skip


def check_judge(judge: Judge) -> None:
    """Holds the laws of judges against one, on histories and lists of its first and last items.

    Args:
        judge: the part, of six items or more.

    Raises:
        AssertionError: a law is broken; the line says which, and what came.

    Example:
        testing.check_judge(models.title_likelihood(titles, "smollm2"))
    """
    check(JUDGE, judge)
