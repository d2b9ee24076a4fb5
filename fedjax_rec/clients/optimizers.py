"""Local optimizers, which know row tables: `sgd` touches only the rows of the batch.

A local optimizer acts on `{"shared": ..., "private": ...}`, where tables are `rows.LocalTable`
nodes with `rows.RowsGradient` gradients and the other leaves are arrays. Leaves that it does not
`cover` are None and stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from .. import rows, trees
from ..check import at_least, nearest, positive
from ..made import part
from ..rows import LocalTable
from ..types import PyTree, Transform


@part
class Local:
    """How a client steps on the gradients of its batches.

    init(params, now) -> state: of one client's round, whose `types.Now` is `now`.
    apply(state, params, gradients, active, now) -> (state, params): one batch. active: bool[],
        False for a batch of padding, which must change nothing.
    covers(path) -> bool: whether the leaf at `path`, such as "shared/item", is trained, in
        whatever round.
    rate(path, now) -> eta where its step on that leaf is p <- p - eta g, else None. Which of the
        two depends on the path alone.
    """

    init: Callable[..., PyTree]
    apply: Callable[..., tuple[PyTree, PyTree]]
    covers: Callable[[str], bool] = lambda path: True
    rate: Callable[..., Any] = lambda path, now: None


def path_of(path) -> str:
    """'shared/item' for the key path of a leaf."""
    return "/".join(str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path)


def covered(local: Local, params: PyTree) -> PyTree:
    """`params` with None in place of each leaf that `local` does not train."""
    return rows.map_nodes_with_path(
        lambda path, x: x if local.covers(path_of(path)) else None, params
    )


def sgd(learning_rate: float) -> Local:
    """Steps p <- p - learning_rate * g. A table costs the rows of the batch, not its size.

    Args:
        learning_rate: which may be traced.

    Returns:
        A `Local` without state, which has a rate on every leaf.

    Raises:
        ValueError: for learning_rate <= 0.

    Example:
        >>> client = clients.local_training(model, data.pointwise(4), clients.sgd(0.1))
    """
    positive("sgd", "learning_rate", learning_rate)
    return _sgd(learning_rate)


def _sgd(learning_rate) -> Local:
    def apply(state, params, gradients, active, now):
        # What stands in the gradient's place may be anything in a batch of padding, NaN included.
        taken = lambda change: jnp.where(active, change, 0)
        rate = jnp.asarray(learning_rate, jnp.float32)

        def one(p, g):
            if not isinstance(p, LocalTable):
                return (p - taken(rate * g)).astype(p.dtype)
            drift = None if p.drift is None else p.drift.after(active)
            times = -rate if drift is None else -rate / drift.scale
            step = p.values if g.dense is None else p.values - taken(rate * g.dense)
            step = step.at[g.slots].add(taken(times * g.values), mode="promise_in_bounds")
            return replace(p, values=step, drift=drift)

        return state, rows.map_nodes(one, params, gradients)

    return Local(lambda params, now: (), apply, rate=lambda path, now: learning_rate)


def scheduled(make: Callable[..., Local | optax.GradientTransformation], schedule: Any) -> Local:
    """Trains in every round with `make(schedule(round))`, compiled once for all rounds.

    Args:
        make: a factory of a float32[] that may be traced, such as `sgd` or `optax.adam`.
        schedule: schedule(round) -> float32[].

    Returns:
        A `Local` with the state of `make(schedule(0))`. The schedule may begin, or end, at 0.

    Raises:
        ValueError: where the first value of the schedule is below 0.

    Example:
        >>> import optax
        >>> from fedjax_rec import clients
        >>> slower = clients.scheduled(clients.sgd, optax.linear_schedule(1.0, 0.1, 100))
    """
    at_least("scheduled", "schedule(0)", schedule(0), 0)
    factory = _sgd if make is sgd else make  # a rate may fall to 0

    def of(round) -> Local:
        return as_local(factory(jnp.asarray(schedule(round), jnp.float32)))

    def init(params, now):
        return of(now.round).init(params, now)

    def apply(state, params, gradients, active, now):
        return of(now.round).apply(state, params, gradients, active, now)

    # What is trained does not depend on the value, which may be 0 in the first rounds.
    covers = as_local(factory(jnp.float32(1.0))).covers
    return Local(init, apply, covers, lambda path, now: of(now.round).rate(path, now))


def from_optax(transform: optax.GradientTransformation) -> Local:
    """Steps with any optax transform; each step costs the client's whole local tables.

    On the touched rows it is what it would be on the whole table, as long as it leaves rows with
    zero gradient and zero state where they are (weight decay does not). Of narrower parameters the
    state and the step are float32: Adam's epsilon is 0 in float16.

    Args:
        transform: such as `optax.adam(1e-3)`; it starts afresh in every round.

    Returns:
        A `Local` whose state is that of `transform`.

    Example:
        >>> adam = clients.from_optax(optax.adam(1e-3))  # what optimizer=optax.adam(1e-3) becomes
    """

    def init(params, now):
        return transform.init(trees.widened(rows.dense(params)))

    def apply(state, params, gradients, active, now):
        kept = rows.dense(params)
        before = trees.widened(kept)
        slopes = trees.widened(rows.at_rows(gradients, params))
        updates, after = transform.update(slopes, state, before)
        keep = lambda new, old: jnp.where(active, new, old)
        stepped = trees.typed_as(optax.apply_updates(before, updates), kept)
        stepped = jax.tree.map(keep, stepped, kept)
        state = jax.tree.map(keep, trees.typed_as(after, state), state)
        return state, rows.with_values(params, stepped)

    return Local(init, apply)


def accumulated(optimizer: Transform, batches: int) -> Local:
    """Steps once every `batches` batches, on their mean gradient: what one batch of that many times
    the size gives, in the memory of one.

    Equal where a client's examples fill whole steps; a batch that is not full weighs like the
    others, and gradients of a step that a round does not fill are dropped.

    Args:
        optimizer: an optax transform.
        batches: how many make a step.

    Returns:
        A `Local` with the state of `optimizer` and one sum of gradients.

    Raises:
        ValueError: for batches < 1.

    Example:
        >>> four = clients.accumulated(optax.sgd(0.1), batches=4)
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
    """Gives each group of parameters an optimizer, all stepping on the same gradient.

    Args:
        optimizers: name of a group -> its optimizer. Names are `private`, `shared`, an attribute of
            the model (`item`, `readout`) or a path from either (`shared/item`). The first name that
            matches a leaf takes it; a leaf that none matches is not trained.

    Returns:
        A `Local` with one state a group.

    Raises:
        ValueError: for no groups and, when a client starts, where a name matches nothing.

    Example:
        >>> import optax
        >>> from fedjax_rec import clients
        >>> both = clients.groups({"private": optax.adam(1e-3), "shared": clients.sgd(0.1)})
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
        return rows.map_nodes_with_path(
            lambda path, x: x if owner(path_of(path)) == name else None, tree
        )

    def init(params, now):
        paths = [path_of(path) for path, _ in rows.nodes_with_path(params)]
        for name in parts:
            if name not in {owner(path) for path in paths}:
                raise ValueError(
                    f"groups({name!r}: ...) matches no parameter{nearest(name, paths)}; "
                    f"there are {', '.join(paths)}."
                )
        return {name: local.init(part(params, name), now) for name, local in parts.items()}

    def apply(state, params, gradients, active, now):
        states = {}
        for name, local in parts.items():
            states[name], changed = local.apply(
                state[name], part(params, name), part(gradients, name), active, now
            )
            params = rows.merge(changed, params)
        return states, params

    def rate(path, now):
        name = owner(path)
        return None if name is None else parts[name].rate(path, now)

    return Local(init, apply, lambda path: owner(path) is not None, rate)
