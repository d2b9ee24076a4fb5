"""Which of the rows that a user sent are positives, and which drawn negatives: by their direction.

Of a factorization with a private user vector, the change of a row in one pass of descent is

    u_i ~ eta (y_i - s(p . q_i)) p,   s the logistic function:

a positive moves along p and a negative against it, whatever p is. The rows of a message are nearly
a matrix of rank one, whose right singular vector is +-p / |p|. Which end is that of positives tell
the messages of others: items that many rows were sent of are popular, negatives are drawn evenly,
so positives are at the end that goes with popularity. (That signs of gradients tell labels Zhao et
al., "iDLG", 2020, note of classifiers; Chai et al. 2021 solve FedMF's for ratings.)

Rows of one number, predictions, are scored by it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .overheard import Message, Overheard
from .scores import Guess
from .touched import by_client, spoken_of


def directions(heard: Sequence[Overheard]) -> list[Guess]:
    """Says the rows that moved the way of positives, of the rows of the last round's message.

    Scores of a row are means of projections over the rounds in which it was sent, each divided by
    the root of the round's mean square. How popular items are is taken from all messages; of one
    message alone the end of the positives is that of the skew, where they are the fewer.

    Args:
        heard: rounds of messages.

    Example:
        >>> from fedjax_rec import leaks
        >>> guesses = leaks.directions([seen])
    """
    found, counts = [], spoken_of(heard)
    for client, messages in by_client(heard).items():
        total, times = (np.zeros(heard[-1].num_items) for _ in range(2))
        for message in messages:
            along = projections(message, counts)[0]
            total[message.items] += along / max(np.sqrt((along**2).mean()), 1e-30)
            times[message.items] += 1
        items = messages[-1].items
        score = total[items] / times[items]
        found.append(Guess(client, items, score, score > 0))
    return found


def projections(
    message: Message, counts: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(float[n], float[D]) of a message: how far each of its rows moved along the direction of
    positives, and that direction, of length 1.

    Args:
        message: of one client.
        counts: float[I], how popular items are; None, or the same for all, takes the skew.

    Returns:
        Projections of the rows and the direction; of rows of one number, those numbers less their
        mean, and 1.

    Example:
        >>> from fedjax_rec import leaks
        >>> said = leaks.Message(0, np.arange(3), np.array([[2.0], [0.0], [1.0]]), 9)
        >>> leaks.projections(said)[0].tolist()
        [1.0, -1.0, 0.0]
    """
    moved = message.rows.astype(np.float64)
    if moved.shape[1] == 1:
        return moved[:, 0] - moved[:, 0].mean(), np.ones(1)
    _, vectors = np.linalg.eigh(moved.T @ moved)
    direction = vectors[:, -1]
    along = moved @ direction
    ahead, told = along > 0, 0.0
    if counts is not None and 0 < ahead.sum() < len(ahead):
        known = np.log1p(counts[message.items])
        told = float(known[ahead].mean() - known[~ahead].mean())
    sign = -1.0 if (told or float(((along - along.mean()) ** 3).sum())) < 0 else 1.0
    return sign * along, sign * direction
