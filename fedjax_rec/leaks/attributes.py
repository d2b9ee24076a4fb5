"""Who a user is, its gender or age, from what it sent: a ridge regression on others' messages.

    x_k = (the direction of positives in its message, the mean public row of its positives)

Features are as wide as two item rows. The attacker knows the attribute of four users in five, and
is scored on the fifth, five times over; within each fold features are standardised and the ridge is
one of a few by the error that is left out of each point. Nothing is tuned on who is scored. `kept`
takes what users keep in place of what they send: what leaks where a client's state is read, and no
part of what the server sees.

(Attributes from recommender vectors: Weinsberg et al., "BlurMe", RecSys 2012.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from ..types import PyTree
from .directions import projections
from .overheard import Message, Overheard
from .scores import DRAWS, SEED, Interval, auc
from .touched import by_client, spoken_of

FOLDS, RIDGES = 5, (1.0, 10.0, 100.0, 1000.0)
WIDEST = 4096


@dataclass(frozen=True)
class Told:
    """auc: of an attribute over users; users: how many there are; share: of those that have it."""

    attribute: str
    auc: Interval
    users: int
    share: float


def sent_features(heard: Sequence[Overheard]) -> dict[int, np.ndarray]:
    """float[F] by client: what messages say of a user, means over rounds.

    Args:
        heard: rounds of messages.

    Returns:
        By client the direction of positives, and the mean of the rows of the public item table that
        the client moved that way; without it where the server has none of their width.

    Example:
        >>> from fedjax_rec import leaks
        >>> features = leaks.sent_features([seen])
    """
    counts, found = spoken_of(heard), {}
    table = _public(heard[-1].shared, heard[-1].num_items)
    for client, messages in by_client(heard).items():
        found[client] = np.mean([_of(m, counts, table) for m in messages], axis=0)
    return found


def kept_features(private: PyTree, clients: Sequence[int]) -> dict[int, np.ndarray]:
    """float[F] by client: all that it keeps, of models that keep at most 4,096 numbers a client.

    Args:
        private: leaves [N, ...], as `State.private`.
        clients: whose.

    Raises:
        ValueError: where clients keep nothing, or more numbers.

    Example:
        >>> from fedjax_rec import leaks
        >>> kept = leaks.kept_features({"user": np.ones((4, 1, 8))}, range(4))
        >>> kept[0].shape
        (8,)
    """
    leaves = [np.asarray(x) for x in jax.tree.leaves(private)]
    leaves = [x.reshape(len(x), -1) for x in leaves if np.issubdtype(x.dtype, np.floating)]
    width = sum(x.shape[1] for x in leaves)
    if not 0 < width <= WIDEST:
        raise ValueError(
            f"kept_features(private): clients keep {width} numbers; this attack is of models whose "
            f"clients keep 1 to {WIDEST}, such as fedmf."
        )
    joined = np.concatenate(leaves, 1)
    return {int(c): joined[c].astype(np.float64) for c in clients}


def attribute(name: str, features: Mapping[int, np.ndarray], values: Mapping[int, bool]) -> Told:
    """How well an attribute is told from features, by cross-validation over users.

    Args:
        name: of the attribute.
        features: float[F] by client.
        values: whether the client has it; clients that are not there are left out.

    Returns:
        The AUC on users that were not trained on, with an interval by the bootstrap over users.

    Raises:
        ValueError: for fewer than ten users with or without the attribute.

    Example:
        >>> from fedjax_rec import leaks
        >>> features = {k: np.array([k % 2, 1.0]) for k in range(40)}
        >>> leaks.attribute("odd", features, {k: k % 2 == 1 for k in range(40)}).auc.mean
        1.0
    """
    clients = [c for c in features if c in values]
    y = np.array([values[c] for c in clients], bool)
    if min(y.sum(), (~y).sum()) < 2 * FOLDS:
        raise ValueError(
            f"attribute({name!r}): {int(y.sum())} users have it and {int((~y).sum())} have not; "
            f"listen to more clients, so that both are {2 * FOLDS} or more."
        )
    x = np.stack([features[c] for c in clients])
    rng = np.random.default_rng(SEED)
    fold = np.empty(len(y), int)
    for group in (np.flatnonzero(y), np.flatnonzero(~y)):
        fold[rng.permutation(group)] = np.arange(len(group)) % FOLDS
    score = np.empty(len(y))
    for k in range(FOLDS):
        score[fold == k] = _ridge(x[fold != k], y[fold != k], x[fold == k])
    draws = rng.integers(0, len(y), (DRAWS // 2, len(y)))
    low, high = np.nanquantile([auc(score[d], y[d]) for d in draws], (0.025, 0.975))
    return Told(name, Interval(auc(score, y), float(low), float(high)), len(y), float(y.mean()))


def _of(message: Message, counts: np.ndarray, table: np.ndarray | None) -> np.ndarray:
    along, direction = projections(message, counts)
    if table is None:
        return direction
    liked = message.items[along > 0]
    mean = table[liked].mean(0) if len(liked) else np.zeros(table.shape[1])
    return np.concatenate([direction, mean])


def _public(shared: PyTree, num_items: int) -> np.ndarray | None:
    """float[I, D]: the server's item table, or None where it has none."""
    tables = (np.asarray(x) for x in jax.tree.leaves(shared))
    return next((x for x in tables if x.ndim == 2 and len(x) == num_items), None)


def _ridge(x: np.ndarray, y: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Predictions for `other` of the ridge with the least error left out (closed form, PRESS)."""
    mean, deviation = x.mean(0), x.std(0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    x, other = (x - mean) / deviation, (other - mean) / deviation
    middle = y.mean()
    left, sizes, right = np.linalg.svd(x, full_matrices=False)
    best = None
    for ridge in RIDGES:
        shrunk = sizes**2 / (sizes**2 + ridge)
        fitted = left @ (shrunk * (left.T @ (y - middle)))
        leverage = (left**2) @ shrunk + 1 / len(y)
        error = (((y - middle - fitted) / (1 - leverage)) ** 2).mean()
        if best is None or error < best[0]:
            best = error, right.T @ (sizes / (sizes**2 + ridge) * (left.T @ (y - middle)))
    assert best is not None
    return middle + other @ best[1]
