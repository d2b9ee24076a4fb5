"""Local optimizers, which know row tables: `sgd` touches only the rows of the batch.

A local optimizer acts on `{"shared": ..., "private": ...}`, where tables are `rows.LocalTable`
nodes with `rows.RowsGradient` gradients and the other leaves are arrays. Leaves that it does not
`cover` are None and stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ..check import at_least, nearest, positive
from ..rows import LocalTable, RowsGradient, is_table
from ..types import PyTree, Transform, at_round


@dataclass(frozen=True)
class Local:
    """init(params) -> state; apply(state, params, gradients, active) -> (state, params).

    covers(path) -> bool: whether the leaf at `path`, e.g. "shared/item", is trained.
    active: bool[], False for a batch of padding, which must change nothing.
    at(round, shared) -> Local: the same optimizer in round `round`, where it depends on what
        everybody knows of the round; else None. Its state keeps its shapes.
    rate(path) -> eta where its step on that leaf is p <- p - eta g, else None.
    """

    init: Callable[..., PyTree]
    apply: Callable[..., tuple[PyTree, PyTree]]
    covers: Callable[[str], bool] = lambda path: True
    at: Callable[..., Local] | None = None
    rate: Callable[[str], Any] = lambda path: None


def path_of(path) -> str:
    """'shared/item' for the key path of a leaf."""
    return "/".join(str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path)


def covered(local: Local, params: PyTree) -> PyTree:
    """`params` with None in place of each leaf that `local` does not train."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x if local.covers(path_of(path)) else None, params, is_leaf=is_table
    )


def merge(changed: PyTree, params: PyTree) -> PyTree:
    """`changed`, and `params` where it is None."""
    return jax.tree.map(
        lambda new, old: old if new is None else new,
        changed,
        params,
        is_leaf=lambda x: x is None or is_table(x),
    )


def sgd(learning_rate: float) -> Local:
    """p <- p - learning_rate * g. A table costs the rows of the batch, not its size."""
    positive("sgd", "learning_rate", learning_rate)
    return _sgd(learning_rate)


def scheduled(make: Callable[..., Local | optax.GradientTransformation], schedule: Any) -> Local:
    """`make(schedule(round))` in every round, compiled once: `scheduled(sgd, optax.linear_schedule(
    1.0, 0.1, 100))`.

    make: a factory of a float32[] that may be traced, such as `sgd` or `optax.adam`.
    schedule(round) -> float32[]. Raises ValueError where its first value is not positive.
    """
    positive("scheduled", "schedule(0)", float(schedule(0)))
    factory = _sgd if make is sgd else make

    def at(round, shared):
        return as_local(factory(jnp.asarray(schedule(round), jnp.float32)))

    first = as_local(factory(float(schedule(0))))
    return replace(first, at=at)


def _sgd(learning_rate) -> Local:
    def apply(state, params, gradients, active):
        # The gradient of a batch of padding is zero only where the loss masks all its terms.
        rate = jnp.where(active, learning_rate, 0.0)

        def one(p, g):
            if not isinstance(p, LocalTable):
                return p - rate * g
            drift = None if p.drift is None else p.drift.after(active)
            times = -rate if drift is None else -rate / drift.scale
            step = p.values if g.dense is None else p.values - rate * g.dense
            step = step.at[g.slots].add(times * g.values, mode="promise_in_bounds")
            return replace(p, values=step, drift=drift)

        is_leaf = lambda x: isinstance(x, LocalTable)
        return state, jax.tree.map(one, params, gradients, is_leaf=is_leaf)

    return Local(lambda params: (), apply, rate=lambda path: learning_rate)


def from_optax(transform: optax.GradientTransformation) -> Local:
    """Any optax transform; each step costs the client's whole local tables.

    On the touched rows it is what it would be on the whole table, as long as it leaves rows with
    zero gradient and zero state where they are (weight decay does not).
    """

    def arrays(params):
        return jax.tree.map(
            lambda p: p.values if isinstance(p, LocalTable) else p, params, is_leaf=is_table
        )

    def whole(p, g):
        if isinstance(g, RowsGradient):
            start = jnp.zeros_like(p.values) if g.dense is None else g.dense
            return start.at[g.slots].add(g.values, mode="promise_in_bounds")
        return g

    def init(params):
        return transform.init(arrays(params))

    def apply(state, params, gradients, active):
        is_leaf = lambda x: isinstance(x, LocalTable)
        gradients = jax.tree.map(whole, params, gradients, is_leaf=is_leaf)
        updates, after = transform.update(gradients, state, arrays(params))
        keep = lambda new, old: jnp.where(active, new, old)
        stepped = jax.tree.map(keep, optax.apply_updates(arrays(params), updates), arrays(params))
        state = jax.tree.map(keep, after, state)
        params = jax.tree.map(
            lambda p, v: replace(p, values=v) if isinstance(p, LocalTable) else v,
            params,
            stepped,
            is_leaf=is_leaf,
        )
        return state, params

    return Local(init, apply)


def accumulated(optimizer: Transform, batches: int) -> Local:
    """An optax `optimizer` that steps once every `batches` batches, on their mean gradient: what
    one batch of that many times the size gives, in the memory of one.

    Equal where a client's examples fill whole steps; a batch that is not full weighs like the
    others, and gradients of a step that a round does not fill are dropped. Raises ValueError for
    batches < 1.
    """
    at_least("accumulated", "batches", batches, 1)
    return from_optax(optax.MultiSteps(optimizer, batches).gradient_transformation())


def as_local(optimizer: Local | optax.GradientTransformation) -> Local:
    """`optimizer`, wrapped by `from_optax` where it is an optax transform."""
    if isinstance(optimizer, Local):
        return optimizer
    if isinstance(optimizer, optax.GradientTransformation):
        return from_optax(optimizer)
    raise TypeError(
        f"optimizer={optimizer!r} is no local optimizer; give clients.sgd(0.1), "
        "clients.groups(...) or an optax transform such as optax.adam(1e-3)."
    )


def groups(optimizers: Mapping[str, Local | Transform]) -> Local:
    """One optimizer for each group of parameters, all stepping on the same gradient.

    Names are `private`, `shared`, an attribute of the model (`item`, `readout`) or a path from
    either (`shared/item`). The first name that matches a leaf takes it; a leaf that none matches
    is not trained. Raises ValueError where a name matches nothing.
    """
    if not optimizers:
        raise ValueError("groups(optimizers={}) trains nothing; name at least one group.")
    parts = {name: as_local(optimizer) for name, optimizer in optimizers.items()}

    def owner(path: str) -> str | None:
        inner = path.split("/", 1)[-1]
        for name in parts:
            if any(p == name or p.startswith(name + "/") for p in (path, inner)):
                return name
        return None

    def part(tree, name):
        return jax.tree_util.tree_map_with_path(
            lambda path, x: x if owner(path_of(path)) == name else None,
            tree,
            is_leaf=lambda x: x is None or is_table(x),
        )

    def init(params):
        leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=is_table)
        paths = [path_of(path) for path, _ in leaves]
        for name in parts:
            if name not in {owner(path) for path in paths}:
                raise ValueError(
                    f"groups({name!r}: ...) matches no parameter{nearest(name, paths)}; "
                    f"there are {', '.join(paths)}."
                )
        return {name: local.init(part(params, name)) for name, local in parts.items()}

    def apply(state, params, gradients, active):
        states = {}
        for name, local in parts.items():
            states[name], changed = local.apply(
                state[name], part(params, name), part(gradients, name), active
            )
            params = merge(changed, params)
        return states, params

    def at(round, shared):
        return groups({name: at_round(local, round, shared) for name, local in parts.items()})

    def rate(path):
        name = owner(path)
        return None if name is None else parts[name].rate(path)

    moves = any(local.at is not None for local in parts.values())
    return Local(init, apply, lambda path: owner(path) is not None, at if moves else None, rate)
