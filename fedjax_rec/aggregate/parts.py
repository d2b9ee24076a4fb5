"""Aggregators of updates that have parts.

- `total()`          sum_k u_k
- `by_part({...})`   an aggregator for each entry of the update
- `each_of({...})`   an aggregator for each of several views of an upload

A part whose aggregator does not add up (a robust rule) may reject clients. Then the sums of the
other parts wait for its verdict, and leave out whom it rejects: control variates and sums follow
the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from .. import rows
from ..check import nearest
from ..types import Aggregator, PyTree, Upload


def total() -> Aggregator:
    """sum_k u_k over the clients that weigh something, whatever they weigh.

    Example:
        >>> strategy = strategies.fedavg(model, data.pointwise(4), aggregator=aggregate.total())
    """

    def reduce(state, uploads: Upload, now):
        return rows.weighted_sum((uploads.weight > 0).astype(jnp.float32), uploads.update)

    def finish(key, state, summary, now):
        return state, summary, None

    return Aggregator(lambda shared: (), reduce, finish, linear=True)


def by_part(aggregators: Mapping[str, Aggregator]) -> Aggregator:
    """One aggregator for each entry of an update that is a dict, by name.

    Entries without any array are left out. Raises ValueError where the names are not those of the
    update.
    """

    def part_of(name: str) -> Callable:
        def part(upload: Upload) -> Upload:
            sent = {name for name, part in upload.update.items() if jax.tree.leaves(part)}
            if sent != aggregators.keys():
                missing = sorted(sent ^ aggregators.keys())[0]
                raise ValueError(
                    f"by_part has {sorted(aggregators)} and the update {sorted(sent)}: {missing!r} "
                    f"is in one alone{nearest(missing, aggregators)}; give each entry an "
                    "aggregator."
                )
            return replace(upload, update=upload.update[name])

        return part

    parts = {name: (a, part_of(name)) for name, a in aggregators.items()}
    return each_of(parts, lambda shared, name: shared[name])


def each_of(
    parts: Mapping[str, tuple[Aggregator, Callable[[Upload], Upload]]],
    shared_of: Callable[[PyTree, str], PyTree],
) -> Aggregator:
    """{name: what the aggregator makes of view(upload)} for each `(aggregator, view)` of `parts`.

    shared_of(shared, name): the model whose update that part is.
    """
    # In whose absence all parts are sums over chunks.
    judges = [name for name, (a, _) in parts.items() if a.additive is not True]
    additive: Any = dict.fromkeys(parts, False) if judges else True

    def init(shared):
        return {name: a.init(shared_of(shared, name)) for name, (a, _) in parts.items()}

    def reduce(state, uploads: Upload, now):
        summary = {}
        for name, (a, view) in parts.items():
            seen = view(uploads)
            waits = judges and name not in judges
            summary[name] = _listed(seen) if waits else a.reduce(state[name], seen, now)
        return summary

    def finish(key, state, summary, now):
        states, update, verdicts = {}, {}, None
        of_part = {name: jax.random.fold_in(key, i) for i, name in enumerate(parts)}
        for name in sorted(parts, key=lambda name: name not in judges):
            a, found = parts[name][0], summary[name]
            if judges and name not in judges:
                if verdicts is not None:
                    found = replace(found, weight=jnp.where(verdicts > 0, found.weight, 0.0))
                found = a.reduce(state[name], found, now)
            states[name], update[name], said = a.finish(of_part[name], state[name], found, now)
            if said is not None:
                verdicts = said if verdicts is None else verdicts * said
        in_order = {name: update[name] for name in parts}
        return {name: states[name] for name in parts}, in_order, verdicts

    linear = not judges and all(a.linear for a, _ in parts.values())
    return Aggregator(init, reduce, finish, additive, linear)


def _listed(uploads: Upload) -> Upload:
    """Uploads that wait, as a summary."""
    return replace(uploads, metrics={}, down=None)
