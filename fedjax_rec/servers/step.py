"""What the server does with the aggregated update.

`step(eta)`:        x <- x + eta * update, on the touched rows alone; `scheduled_step` by the round
`from_optax(tx)`:   any optax transform on the pseudo-gradient -update (Reddi et al., ICLR 2021)

`from_optax(optax.sgd(eta))` and `step(eta)` are the same; the first costs every row of every table,
as a stateful optimizer must, and the second only the rows that the round touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax

from .. import rows, trees
from ..check import positive
from ..types import Server


def step(learning_rate: float = 1.0) -> Server:
    """Adds `learning_rate` times the update: federated averaging at 1.

    Args:
        learning_rate: eta, which may be traced.

    Returns:
        A `Server` without state, which touches the rows of the update alone.

    Raises:
        ValueError: for learning_rate <= 0.

    Example:
        >>> strategy = strategies.fedavg(model, data.pointwise(4), server=strategies.step(0.5))
    """
    positive("step", "learning_rate", learning_rate)
    add = lambda shared, update: rows.apply(shared, rows.scale(update, learning_rate))
    return Server(lambda shared: (), lambda state, shared, update: (state, add(shared, update)))


def scheduled_step(schedule: Any) -> Server:
    """Adds schedule(t) times the update in round t = 0, 1, ..., compiled once.

    Args:
        schedule: schedule(round) -> float32[], such as `optax.linear_schedule(1.0, 0.1, 100)`.

    Returns:
        A `Server` whose state is the number of the round.

    Example:
        >>> falling = strategies.scheduled_step(optax.linear_schedule(1.0, 0.1, 100))
    """

    def apply(state, shared, update):
        return state + 1, rows.apply(shared, rows.scale(update, schedule(state)))

    return Server(lambda shared: jnp.int32(0), apply)


def from_optax(transform: optax.GradientTransformation) -> Server:
    """Steps with `transform` on -update, over all of the trainable part of `shared`.

    Args:
        transform: such as `optax.adam(1e-2)`.

    Returns:
        A `Server` whose state is that of `transform`, of every row of every table, in float32
        also where the model is narrower.

    Example:
        >>> server = strategies.from_optax(optax.adam(1e-2))
    """

    def init(shared):
        return transform.init(trees.widened(rows.dense(trees.trainable(shared))))

    def apply(state, shared, update):
        before = trees.trainable(shared)
        kept = rows.dense(before)
        params = trees.widened(kept)
        gradient = trees.widened(rows.negative(rows.to_dense(update)))
        change, after = transform.update(gradient, state, params)
        params = trees.typed_as(optax.apply_updates(params, change), kept)
        after = trees.typed_as(after, state)
        return after, trees.with_frozen(rows.with_values(before, params), shared)

    return Server(init, apply)


def by_part(servers: Mapping[str, Server]) -> Server:
    """Gives each entry of a `shared` that is a dict a server of its own; other entries stay.

    Args:
        servers: name of an entry -> its server.

    Returns:
        A `Server` with one state an entry.

    Example:
        >>> both = servers.by_part({"model": servers.step(1.0), "control": servers.step(0.5)})
    """

    def init(shared):
        return {name: server.init(shared[name]) for name, server in servers.items()}

    def apply(state, shared, update):
        states, after = {}, dict(shared)
        for name, server in servers.items():
            states[name], after[name] = server.apply(state[name], shared[name], update[name])
        return states, after

    return Server(init, apply)


def as_server(server: Server | optax.GradientTransformation) -> Server:
    """`server`, wrapped by `from_optax` where it is an optax transform.

    Args:
        server: a `Server`, or an optax transform such as `optax.adam(1e-2)`.

    Raises:
        TypeError: where it is neither.

    Example:
        >>> server = servers.as_server(optax.adam(1e-2))
    """
    if isinstance(server, Server):
        return server
    if isinstance(server, optax.GradientTransformation):
        return from_optax(server)
    raise TypeError(
        f"server={server!r} is no server optimizer; give strategies.step() or an optax transform "
        "such as optax.adam(1e-2)."
    )
