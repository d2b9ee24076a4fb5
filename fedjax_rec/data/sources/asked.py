"""Which interactions prompts ask about, and what counting says of each before any model does.

`last_ratings(...)`    the last ratings of all, in the order of time: TALLRec's few users
`last_of_users(...)`   the last ratings of many users: as many opinions as there are users

    liked_share = likes among the user's last H / H        user_mean = the same of all before
    item_mean = (likes of the item + m) / (its ratings + 1)      m = the share of likes of all

A like is a rating above a bound. What is held out counts in no mean, and no interaction in its own.
A language model that says no more than these three has learned to count.

`n` interactions asked about.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...check import at_least
from ..interactions import Interactions, offsets
from ..splits import TEST, TRAIN, VALIDATION

FEATURES = ("liked_share", "item_mean", "user_mean")


@dataclass(frozen=True)
class Asked:
    """Rows of interactions to learn from, to choose by and to test on; none is the first of its
    user.

    Attributes:
        train: int[n1].
        validation: int[n2].
        test: int[n3].
        until: int[rows], of each interaction where the history ends that a prompt about it may
            name: it names rows before that one.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    until: np.ndarray


Asking = Callable[[Interactions], Asked]


def last_ratings(count: int = 10_000, held_out: int = 400) -> Asking:
    """The last `count` interactions: eight in ten of them to learn from, then one to choose by and
    one to test on, in the order of time, as in TALLRec. Of MovieLens-100K the last two are of some
    thirty users.

    Args:
        count: interactions.
        held_out: most of them for validation and for the test, the same ones in every run.

    Returns:
        asking(interactions) -> `Asked`, without the first interactions of users. A prompt names
        what came before it, held out or not.

    Raises:
        ValueError: for a number below 1.

    Example:
        >>> asked = data.last_ratings(count=100, held_out=5)(films)
    """
    at_least("last_ratings", "count", count, 1)
    at_least("last_ratings", "held_out", held_out, 1)

    def asking(found: Interactions) -> Asked:
        rows = np.argsort(found.times, kind="stable")[-count:]
        rows = rows[rows > offsets(found)[found.users[rows]]]
        train, *later = np.split(rows, [int(0.8 * len(rows)), int(0.9 * len(rows))])
        fixed = np.random.default_rng(0)
        validation, test = (fixed.permutation(x)[:held_out] for x in later)
        return Asked(train, validation, test, np.arange(len(found)))

    return asking


def last_of_users(users: int = 500, validation: int = 1, test: int = 2) -> Asking:
    """The last interactions of each of `users` users are held out; everything else is to learn
    from, but for the first of each user.

    Args:
        users: the same ones in every run, of those with one interaction more than that at least;
            all of them where there are fewer.
        validation: interactions of each before those of the test.
        test: the last ones of each.

    Returns:
        asking(interactions) -> `Asked`, without the first interactions of users. What is held out
        of a user is asked about with one history, that before all of it: the answer to one prompt
        stands in no other, so that prompts of one user can be compared.

    Raises:
        ValueError: for a number below 1.

    Example:
        >>> asked = data.last_of_users(users=5)(films)
        >>> len(asked.validation), len(asked.test)
        (5, 10)
    """
    for name, value in (("users", users), ("validation", validation), ("test", test)):
        at_least("last_of_users", name, value, 1)

    def asking(found: Interactions) -> Asked:
        start, count = offsets(found)[:-1], np.diff(offsets(found))
        able = np.flatnonzero(count > validation + test)
        some = np.sort(np.random.default_rng(0).permutation(able)[:users])
        end = (start + count)[some, None]
        back = np.arange(validation + test, 0, -1)
        held = end - back
        left = np.ones(len(found), bool)
        left[held.ravel()] = False
        left[start[count > 0]] = False
        until = np.arange(len(found))
        until[held] = held[:, :1]
        chosen, tested = held[:, :validation].ravel(), held[:, validation:].ravel()
        return Asked(np.flatnonzero(left), chosen, tested, until)

    return asking


def shots_of(rows: np.ndarray, client: np.ndarray, shots: int | None, seed: int) -> np.ndarray:
    """`shots` of the rows of each client, drawn by `seed`; None for all. client: of each row.

    Raises ValueError for a client with fewer.
    """
    if shots is None:
        return rows
    draw, chosen = np.random.default_rng(seed), []
    for one in range(client.max() + 1):
        mine = rows[client == one]
        if len(mine) < shots:
            raise ValueError(
                f"yes_no_prompts(shots={shots}): client {one} has {len(mine)} interactions to "
                "learn from; use fewer shots or clients, or ask about more."
            )
        chosen.append(draw.permutation(mine)[:shots])
    return np.concatenate(chosen)


def in_parts(train: np.ndarray, asked: Asked) -> tuple[np.ndarray, np.ndarray]:
    """(rows int[n], part int8[n]): rows to learn from, and those that are held out."""
    parts = {TRAIN: train, VALIDATION: asked.validation, TEST: asked.test}
    part = [np.full(len(x), part, np.int8) for part, x in parts.items()]
    return np.concatenate(list(parts.values())), np.concatenate(part)


def counted(
    found: Interactions, likes: np.ndarray, asked: Asked, rows: np.ndarray, history: int
) -> np.ndarray:
    """float32[n, 3]: `FEATURES` of `rows`.

    Args:
        found: in the order of users and time.
        likes: 0 or 1 of each interaction.
        asked: what is held out, and where histories end.
        rows: int[n], none the first of its user.
        history: H, the last interactions of which a prompt speaks.
    """
    known = np.ones(len(found), bool)
    known[asked.validation], known[asked.test] = False, False
    before = np.append(0, np.cumsum(likes))  # likes of all rows before
    first, end = offsets(found)[found.users[rows]], asked.until[rows]
    window = np.maximum(first, end - history)
    share = lambda begin: (before[end] - before[begin]) / (end - begin)
    count = np.bincount(found.items[known], minlength=found.num_items)
    liked = np.bincount(found.items[known], likes[known], minlength=found.num_items)
    own, item = known[rows], found.items[rows]
    mean = (liked[item] - own * likes[rows] + likes[known].mean()) / (count[item] - own + 1)
    return np.stack([share(window), mean, share(first)], 1).astype(np.float32)
