"""Metrics by the popularity of held-out items: the head, the middle, the tail, and cold items.

A user's held-out items are ranked once, among all candidates; then each group's metrics are those
of its own items at these places,

    head_hr@10 = mean over the users with a held-out item of the head of [one of them is among the
                 first ten]

so the groups of a run do not compete less than all do. The head has a fifth of the training
interactions, the tail the last fifth (`popularity_groups`); `cold` items have none and are of no
other group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..check import one_of
from .metrics import Metric, evaluate_user
from .popularity_bias import COLD, GROUPS, popularity_groups
from .protocol import Protocol, averaged

ALL = (*GROUPS, COLD)


def item_groups(
    metrics: Sequence[Metric],
    among: Protocol,
    popularity: Any,
    groups: Sequence[str] = ALL,
    share: float = 0.2,
) -> Protocol:
    """Metrics of the held-out items of the head, the middle, the tail, or that are cold.

    Args:
        metrics: what is measured of the ranks of each group's items.
        among: whose candidates they are ranked among, `full_catalogue` or `sampled`.
        popularity: int[I], training interactions of each item.
        groups: of head, mid, tail, cold; the names of metrics are `head_hr@10` and so on.
        share: as in `popularity_groups`.

    Returns:
        A protocol without a label, to stand `beside` the one it ranks among. A user without such an
        item has no value.

    Raises:
        ValueError: for an unknown group, one twice or none, for a protocol that ranks nothing, and
            as `popularity_groups`.

    Example:
        >>> chosen = evaluate.metrics(["hr@10"])
        >>> full = evaluate.full_catalogue(chosen, num_items)
        >>> by_group = evaluate.item_groups(chosen, full, dataset.popularity, ["head", "tail"])
        >>> protocol = evaluate.beside(full, by_group, "")
    """
    for name in groups:
        one_of("item_groups", "groups", name, ALL)
    if not groups or len(set(groups)) < len(groups):
        raise ValueError(
            f"item_groups(groups={list(groups)}) must name distinct groups, at least one of "
            f"{', '.join(ALL)}."
        )
    if among.rank is None:
        raise ValueError(
            f"item_groups(among: {among.label}) ranks nothing; use full_catalogue or sampled."
        )
    counts = np.asarray(popularity)
    of_item = np.where(counts == 0, ALL.index(COLD), popularity_groups(counts, share))
    of_item = jnp.asarray(of_item, jnp.int8)
    rank = among.rank

    def measure(score, case):
        found = rank(score, case)
        mine = of_item[jnp.maximum(case.targets, 0)]
        told = []
        for name in groups:
            inside = mine == ALL.index(name)
            ranks, ties = (jnp.where(inside, x, 0) for x in (found.ranks, found.ties))
            told.append(evaluate_user(metrics, ranks, found.candidates, ties))
        return jnp.concatenate(told)

    names = tuple(f"{group}_{metric.name}" for group in groups for metric in metrics)
    return replace(averaged(metrics, measure, ""), names=names, summary_names=names)
