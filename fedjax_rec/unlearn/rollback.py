"""Back to before: the round in which somebody first took part, and the state to begin from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from .. import keys
from ..simulate import Cohorts, full
from ..types import State


def first_round(
    cohorts: Cohorts | None, key: jax.Array, clients: Sequence[int], num_clients: int, rounds: int
) -> int | None:
    """The rounds that were done before any of these clients first stood in a cohort, by drawing
    all of them again; a state after so many rounds or fewer has nothing of them.

    Args:
        cohorts: those of the run; None for everybody.
        key: of the run, as given to `simulate`.
        clients: who is to be forgotten.
        num_clients: N.
        rounds: of the run.

    Returns:
        0 to rounds - 1; None where none of them took part.

    Example:
        >>> from fedjax_rec import unlearn
        >>> unlearn.first_round(simulate.fixed([3, 5]), key, [5], num_clients=9, rounds=2)
        0
    """
    draws, of_cohort = cohorts or full(), keys.stream(key, "cohort")
    wanted = jnp.asarray(list(clients), jnp.int32)

    def one(_, round):
        ids = draws.draw(jax.random.fold_in(of_cohort, round), round, num_clients)
        return None, (ids[:, None] == wanted).any()

    there = jax.jit(lambda: jax.lax.scan(one, None, jnp.arange(rounds))[1])()
    found = np.flatnonzero(np.asarray(there))
    return int(found[0]) if len(found) else None


def rolled_back(first: State, trained: State) -> State:
    """The state before the first round, in which clients have the logs that they have now.

    Args:
        first: of the strategy that replays, `strategy.init(...)` with the key of the run.
        trained: of the run, of a strategy that differs in `replay` for `update_log` alone.

    Raises:
        ValueError: where clients keep something else in the two.

    Example:
        >>> from fedjax_rec import unlearn
        >>> state = strategies.fedmf(model, data.pointwise(4)).init(key, 3)
        >>> int(unlearn.rolled_back(state, state).round)
        0
    """
    outline = lambda tree: jax.tree.map(lambda x: (x.shape, str(x.dtype)), tree)
    if outline(first.memory) != outline(trained.memory):
        raise ValueError(
            "rolled_back(first, trained): clients keep other things in the two; give replay the "
            "rounds and rows of update_log, and leave the other stages as they are."
        )
    return replace(first, memory=jax.tree.map(jnp.copy, trained.memory))
