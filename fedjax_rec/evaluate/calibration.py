"""Calibrated lists: whether the categories of a list are those of what its user has chosen.

With p(g|i) the share of category g in item i, H_u the history of a user and R_u its list:

    p(g|u) = mean of p(g|i) over i in H_u          q(g|u) = the same over i in R_u
    KL(p || q~) = sum_g p(g|u) log(p(g|u) / q~(g|u))       q~ = (1 - a) q + a p,  a = .01

in nats; 0 is calibrated, log(1 / a) the most (Steck, "Calibrated recommendations", RecSys 2018,
equations 2 to 6, with equal weights of a user's items and of places). An item without a category
counts in neither.

`U` users, `I` items, `G` categories, `k` places of a list.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_array

from ..check import static


def calibration(
    lists: Any, users: Any, items: Any, categories: Any, smoothing: float = 0.01
) -> np.ndarray:
    """How far the categories of each user's list are from those of its history, by Steck's KL.

    Args:
        lists: int[U, k], items of each user's list, from 0; -1 for places that a list lacks.
        users: int[n], whose the rows of the histories are.
        items: int[n], which items.
        categories: [I, G], how much of each category an item has, such as 1 where it is of a genre;
            rows are divided by their sums.
        smoothing: a of the paper, the share of p in q~. In (0, 1).

    Returns:
        float64[U], in nats, 0 for equal shares; NaN for a user of whom no item of the list, or of
        the history, has a category.

    Raises:
        ValueError: for lists that are not [U, k] or name items that `categories` lacks, for
            histories of other users or items, and a smoothing out of range.

    Example:
        >>> genres = [[1, 0], [0, 1], [1, 1]]
        >>> told = evaluate.calibration([[0, 1]], [0, 0], [0, 1], genres)
        >>> float(told[0])
        0.0
    """
    static("calibration", "smoothing", smoothing)
    if not 0 < smoothing < 1:
        raise ValueError(
            f"calibration(smoothing={smoothing}) is out of range; use 0 < smoothing < 1."
        )
    of_item = np.asarray(categories, np.float64)
    if of_item.ndim != 2 or (of_item < 0).any():
        raise ValueError(
            f"calibration(categories of shape {of_item.shape}): give [I, G], numbers of 0 or more."
        )
    total = of_item.sum(1, keepdims=True)
    of_item = np.divide(of_item, total, out=np.zeros_like(of_item), where=total > 0)
    shown = shown_of("calibration", lists, len(of_item))
    seen = history_of("calibration", users, items, len(shown), len(of_item))
    p = shares(np.asarray(seen @ of_item))
    q = np.zeros_like(p)
    for place in shown.T:  # no array of [U, k, G]
        q += np.where((place >= 0)[:, None], of_item[place], 0.0)
    mixed = (1 - smoothing) * shares(q) + smoothing * p
    return np.where(np.isnan(p + mixed).any(1), np.nan, divergence(p, mixed))


def shown_of(where: str, lists: Any, num_items: int) -> np.ndarray:
    """`lists` as int[U, k]. Raises ValueError where they are not."""
    shown = np.asarray(lists)
    if shown.ndim != 2 or (shown.size and (shown.max() >= num_items or shown.min() < -1)):
        raise ValueError(
            f"{where}(lists: {shown.shape}): give int[U, k] of items below {num_items}, or -1."
        )
    return shown


def history_of(where: str, users: Any, items: Any, num_users: int, num_items: int) -> csr_array:
    """Sparse [U, I], how often each pair occurs. Raises ValueError for ids out of range."""
    users, items = np.asarray(users), np.asarray(items)
    if users.ndim != 1 or users.shape != items.shape:
        raise ValueError(
            f"{where}(users: {users.shape}, items: {items.shape}): give int[n] of both, one row "
            "an interaction."
        )
    for name, ids, most in (("users", users, num_users), ("items", items, num_items)):
        if ids.size and (ids.min() < 0 or ids.max() >= most):
            raise ValueError(f"{where}({name}): give ids from 0 to {most - 1}, as `lists` has.")
    return csr_array((np.ones(len(users)), (users, items)), shape=(num_users, num_items))


def shares(x: np.ndarray) -> np.ndarray:
    """Rows divided by their sums; NaN for rows of zeros."""
    total = x.sum(1, keepdims=True)
    return np.divide(x, total, out=np.full_like(x, np.nan), where=total > 0)


def divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p || q) of each row in nats; what p has nothing of adds nothing."""
    ratio = np.divide(p, q, out=np.ones_like(p), where=~(p == 0))
    return (p * np.log(ratio)).sum(1)
