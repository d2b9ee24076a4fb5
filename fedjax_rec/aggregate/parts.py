"""Aggregators of updates that have parts.

- `total()`         sum_k u_k
- `by_part({...})`  an aggregator for each entry of the update
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp

from ..check import nearest
from ..types import Aggregator, Upload
from .mean import weighted_sum


def total() -> Aggregator:
    """The sum over clients that weigh something, whatever they weigh."""

    def reduce(uploads: Upload):
        return weighted_sum((uploads.weight > 0).astype(jnp.float32), uploads.update)

    return Aggregator(lambda shared: (), reduce, lambda key, state, summary: (state, summary))


def by_part(aggregators: Mapping[str, Aggregator]) -> Aggregator:
    """One aggregator for each entry of an update that is a dict, by name.

    Entries without any array are left out. Raises ValueError where the names are not those of the
    update, and where some are additive and
    others are not.
    """
    additive = {a.additive for a in aggregators.values()}
    if len(additive) != 1:
        raise ValueError(
            f"by_part({sorted(aggregators)}) mixes aggregators whose summaries add up with others; "
            "use parts of one kind, at least one."
        )

    def init(shared):
        return {name: a.init(shared[name]) for name, a in aggregators.items()}

    def reduce(uploads: Upload):
        sent = {name for name, part in uploads.update.items() if jax.tree.leaves(part)}
        if sent != aggregators.keys():
            missing = sorted(sent ^ aggregators.keys())[0]
            raise ValueError(
                f"by_part has {sorted(aggregators)} and the update {sorted(sent)}: {missing!r} is "
                f"in one alone{nearest(missing, aggregators)}; give each entry an aggregator."
            )
        return {
            name: a.reduce(replace(uploads, update=uploads.update[name]))
            for name, a in aggregators.items()
        }

    def finish(key, state, summary):
        states, update = {}, {}
        for i, (name, a) in enumerate(aggregators.items()):
            part = jax.random.fold_in(key, i)
            states[name], update[name] = a.finish(part, state[name], summary[name])
        return states, update

    return Aggregator(init, reduce, finish, additive.pop())
