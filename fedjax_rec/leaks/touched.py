"""Which items a user has: from the ids of the rows that it sent, and how far they moved.

    touched      says the items whose rows were sent
    magnitudes   says those that moved most: 1 / (1 + negatives) of the rows sent, by |u_i|
    recurring    says those that were sent in every round: negatives are drawn anew, interactions
                 are not
    popularity   says the items that most messages speak of, and looks at no user's own

A user who sends few rows of a table tells with their ids what it has (the first attack on row
tables, Ammad-ud-din et al. 2019 and Chai et al. 2021 note it). Drawn negatives hide positives among
the rows, not the rows among the items.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..check import at_least
from .overheard import Message, Overheard
from .scores import Guess


def touched(heard: Sequence[Overheard]) -> list[Guess]:
    """Says the items whose rows were sent in the last round, of the whole catalogue.

    Args:
        heard: rounds of messages; the last counts.

    Raises:
        ValueError: where messages name no rows.

    Example:
        >>> from fedjax_rec import leaks
        >>> guesses = leaks.touched([seen])
    """
    last = named("touched", heard)[-1]
    return [_of_all(last, m, np.ones(len(m.items))) for m in last.messages]


def magnitudes(heard: Sequence[Overheard], negatives: float = 4.0) -> list[Guess]:
    """Says the rows that moved most, of the whole catalogue.

    Args:
        heard: rounds of messages; norms are means over them.
        negatives: drawn for each interaction, which the configuration tells.

    Raises:
        ValueError: for negatives < 0.

    Example:
        >>> from fedjax_rec import leaks
        >>> guesses = leaks.magnitudes([seen], negatives=4)
    """
    at_least("magnitudes", "negatives", negatives, 0)
    found = []
    for client, messages in by_client(heard).items():
        moved = np.zeros(heard[-1].num_items)
        for message in messages:
            moved[message.items] += np.linalg.norm(message.rows, axis=1)
        count = np.mean([len(m.items) for m in messages]) / (1 + negatives)
        found.append(_best(client, np.arange(len(moved)), moved, round(count), moved > 0))
    return found


def recurring(heard: Sequence[Overheard], negatives: float = 4.0) -> list[Guess]:
    """Says the rows that were sent in every round, of the whole catalogue.

    Args:
        heard: two rounds of messages or more.
        negatives: as of `magnitudes`; where there are none every row recurs.

    Raises:
        ValueError: for fewer than two rounds, and where messages name no rows.

    Example:
        >>> from fedjax_rec import leaks
        >>> leaks.recurring([seen])
        Traceback (most recent call last):
        ...
        ValueError: recurring(heard=1 round): needs two rounds or more; use --observe 3.
    """
    named("recurring", heard)
    at_least("recurring", "negatives", negatives, 0)
    if len(heard) < 2:
        raise ValueError("recurring(heard=1 round): needs two rounds or more; use --observe 3.")
    found = []
    for client, messages in by_client(heard).items():
        times, moved = (np.zeros(heard[-1].num_items) for _ in range(2))
        for message in messages:
            times[message.items] += 1
            moved[message.items] += np.linalg.norm(message.rows, axis=1)
        score = times + 0.5 * moved / max(moved.max(), 1e-30)
        found.append(Guess(client, np.arange(len(times)), score, times == len(messages)))
    return found


def popularity(heard: Sequence[Overheard], negatives: float = 4.0) -> list[Guess]:
    """Says the items that most clients' messages speak of: what is known without a user's message.

    Args:
        heard: rounds of messages.
        negatives: as of `magnitudes`.

    Raises:
        ValueError: where messages name no rows.

    Example:
        >>> from fedjax_rec import leaks
        >>> guesses = leaks.popularity([seen])
    """
    named("popularity", heard)
    at_least("popularity", "negatives", negatives, 0)
    found, count = [], spoken_of(heard)
    for client, messages in by_client(heard).items():
        others = count.copy()
        for message in messages:
            others[message.items] -= 1
        say = np.mean([len(m.items) for m in messages]) / (1 + negatives)
        found.append(_best(client, np.arange(len(others)), others, round(say), others > 0))
    return found


def spoken_of(heard: Sequence[Overheard]) -> np.ndarray:
    """float[I]: how many messages speak of each item.

    Args:
        heard: rounds of messages.

    Example:
        >>> from fedjax_rec import leaks
        >>> counts = leaks.spoken_of([seen])
    """
    count = np.zeros(heard[-1].num_items)
    for overheard in heard:
        for message in overheard.messages:
            count[message.items] += 1
    return count


def by_client(heard: Sequence[Overheard]) -> dict[int, list[Message]]:
    """The messages of each client, of all rounds."""
    found: dict[int, list[Message]] = {}
    for overheard in heard:
        for message in overheard.messages:
            found.setdefault(message.client, []).append(message)
    return found


def named(where: str, heard: Sequence[Overheard]) -> Sequence[Overheard]:
    """`heard`, where messages name rows; else raises ValueError."""
    if not all(overheard.named for overheard in heard):
        raise ValueError(
            f"{where}: the messages name no rows (a sketch or a whole table), so there are no ids "
            "to look at; use magnitudes."
        )
    return heard


def _of_all(overheard: Overheard, message: Message, score: np.ndarray) -> Guess:
    whole = np.zeros(overheard.num_items)
    whole[message.items] = score
    return Guess(message.client, np.arange(len(whole)), whole, whole > 0)


def _best(client: int, candidates, score, count: int, there) -> Guess:
    """Says the `count` candidates of highest score among those that are `there`."""
    order = np.argsort(np.where(there, -score, np.inf), kind="stable")[:count]
    said = np.zeros(len(score), bool)
    said[order] = True
    return Guess(client, candidates, score, said & there)
