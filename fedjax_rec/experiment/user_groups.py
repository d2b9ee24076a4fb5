"""Who a run serves: each metric in groups of its users, for `summary.json`.

`by_activity` is in quarters; `by_attribute` by what data tell of users in few words (gender, and
age where it is bins), and by `activity`: users of more training interactions than the mean of all
that are measured, and the others, as papers on fairness part them (Liu et al., RecSys 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import evaluate

MOST = 8  # groups of one attribute


def by_activity(names: Sequence[str], values: np.ndarray, activity: np.ndarray) -> dict[str, Any]:
    """Each metric in quarters of the users that have it, from the least to the most active; in
    fewer parts where there are fewer users."""
    told = {}
    for name, column in zip(names, values.T, strict=True):
        if measured := int((~np.isnan(column)).sum()):
            told[name] = evaluate.by_activity(column, activity, min(4, measured))
    return told


def by_attribute(
    names: Sequence[str], values: np.ndarray, activity: np.ndarray, users: np.ndarray, features: Any
) -> dict[str, Any]:
    """{attribute: {metric: {group: {"users", "mean"}}}}.

    Args:
        names: of the metrics.
        values: float[U, M] of them.
        activity: int[U], training interactions.
        users: int[U], their rows in `features`.
        features: a frame of all users, or None.
    """
    labels = {}
    if np.unique(activity).size > 1:  # not of one client that holds all users
        labels["activity"] = np.where(activity > activity.mean(), "active", "inactive")
    table = {} if features is None else features.to_dict(as_series=False)
    for column, of_all in table.items():
        told = [None if x is None else str(x) for x in of_all]
        if 1 < len(set(told) - {None}) <= MOST:
            labels[column] = np.array(told, object)[users]
    return {
        attribute: {
            name: evaluate.by_group(column, of_users.tolist())
            for name, column in zip(names, values.T, strict=True)
        }
        for attribute, of_users in labels.items()
    }
