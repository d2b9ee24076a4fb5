"""Exposure: who sees the items that attackers push.

    er@k            share of the targets among the first k, of those that a user may be shown
    target_ndcg@k   their NDCG@k

of a user who has at least one target neither among what it has seen by then (training, and for the
test validation too) nor held out in this part; targets that it has there do not count for it, and
a user who has all of them has no value. With one target the mean over users is the share of users
who see it, ER@k of Zhang et al. ("PipAttack", WSDM 2022) and of PIECK (ICDE 2024). Ranks are among
the full catalogue without what was seen, ties against the target.

Only users with held-out items are measured, so accounts that attackers add are not.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Float32, Int32

from ..types import Array
from .metrics import Metric, evaluate_user
from .protocol import Protocol, averaged, unseen
from .ranks import ranks


def exposure(metrics: Sequence[Metric], targets: Sequence[int], num_items: int) -> Protocol:
    """Ranks target items, the same for all users, among all items that a user has not seen.

    Args:
        metrics: `exposure_ratio` and `target_ndcg`.
        targets: ids of the items.
        num_items: `I`, the items of the data.

    Raises:
        ValueError: for no target, one twice, or one that is no item of the data; and for other
            metrics, which are of held-out items.

    Example:
        >>> found = evaluate.exposure([evaluate.exposure_ratio(10)], [7, 8], num_items)
        >>> full = evaluate.full_catalogue(evaluate.metrics(["hr@10"]), num_items)
        >>> protocol = evaluate.beside(full, found, "")
    """
    chosen = list(targets)
    if not chosen or len(set(chosen)) != len(chosen):
        raise ValueError(f"exposure(targets={chosen}) must name distinct items, at least one.")
    if min(chosen) < 0 or max(chosen) >= num_items:
        raise ValueError(
            f"exposure(targets={chosen}) names an item that does not exist; use ids from 0 to "
            f"{num_items - 1}."
        )
    if wrong := [m.name for m in metrics if not m.of_targets]:
        raise ValueError(
            f"exposure(metrics={wrong}) are of held-out items; use exposure_ratio or target_ndcg."
        )

    def measure(score, case) -> Float32[Array, " M"]:
        scores, seen = unseen(score, case, num_items)
        pushed: Int32[Array, " T"] = jnp.asarray(chosen, jnp.int32)
        held = (case.targets[:, None] == pushed).any(0)
        measured = (case.targets >= 0).any()
        eligible = jnp.where(seen[pushed] | held | ~measured, -1, pushed)
        found = ranks(scores, eligible, seen)
        return evaluate_user(metrics, *found)

    return averaged(metrics, measure, "exposure of targets")
