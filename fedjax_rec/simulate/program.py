"""The compiled calls of a run: blocks of rounds, with a measurement at the end of each.

    scan over evaluations { scan over rounds { draw, round };  measure }

A program compiles each length of block once, for values or for their shapes alone, so that a run
can be looked at (`forecast`) before it begins, and begins with what was compiled for that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from .. import keys
from ..rounds.plan import Chunk, plan
from ..types import Cohort, State, Strategy
from .cohorts import Cohorts, full
from .measure import Measure
from .padding import refuse_counted_padding


@dataclass(frozen=True)
class Compiled:
    """call(state, store) -> (state, (seen, bytes_up, bytes_down, means, values)), state given up.
    chunk: the clients that train at once."""

    call: Any
    chunk: Chunk


@dataclass(frozen=True)
class Program:
    """compiled(state, store, times, rounds) -> Compiled: `times` measurements, each after `rounds`
    rounds. state: a State, or its outline.
    look(state): raises ValueError where the loss counts padding, see `padding`; once."""

    compiled: Callable[..., Compiled]
    look: Callable[[State], None]


def program(
    strategy: Strategy,
    store,
    key: jax.Array,
    cohorts: Cohorts | None = None,
    measure: Measure | None = None,
) -> Program:
    """The calls of the run that `simulate` makes of these arguments.

    Raises:
        ValueError: where the cohort is larger than the clients.
    """
    draws = cohorts or full()
    draws.size(store.num_clients)

    def one_round(state, store, chunk):
        n = store.num_clients
        draw = jax.random.fold_in(keys.stream(key, "cohort"), state.round)
        ids = draws.draw(draw, state.round, n)
        state, info = strategy.round(keys.stream(key, "round"), state, Cohort(ids, store), chunk)
        refused = jnp.zeros(ids.shape) if info.rejected is None else info.rejected
        # Numbers of a client, by examples; where nobody counts, as when all are late, of all who
        # trained, and where nobody did, there is nothing to tell.
        asked = (ids < n) & (refused == 0) & (store.sizes(ids) > 0)
        counts = info.weight > 0
        weight = jnp.where(counts.any(), info.weight, asked.astype(jnp.float32))
        mean = lambda x: jnp.where(weight != 0, x * weight, 0).sum() / weight.sum()
        means = {name: mean(x) for name, x in info.metrics.items() if x.ndim == 1}
        told = {
            "clients": counts.sum(),
            "rejected": jnp.where(refused > 0, ids, -1),
            "repeated": jnp.zeros(n, jnp.int32).at[ids].add(1, mode="drop").max() > 1,
        }
        return state, (info, ids, means | told)

    def measured(state, store, rounds, chunk):
        state, (info, ids, seen) = jax.lax.scan(
            lambda s, _: one_round(s, store, chunk), state, None, length=rounds
        )
        last = jax.tree.map(lambda x: x[-1], info)
        values, means = ({}, {}) if measure is None else measure.values(state, last, ids[-1])
        finite = jnp.stack([jnp.isfinite(x).all() for x in _floats(state.shared)]).all()
        seen = {**seen, "finite": finite}
        return state, (seen, info.bytes_up, info.bytes_down, means, values)

    def block(state, store, times, rounds, chunk):
        one = lambda s, _: measured(s, store, rounds, chunk)
        return jax.lax.scan(one, state, None, length=times)

    jitted: Any = jax.jit(
        block, static_argnames=("times", "rounds", "chunk"), donate_argnames="state"
    )
    made: dict[tuple[int, int], Compiled] = {}
    planned: list[Chunk] = []

    def chunk_for(state, store) -> Chunk:
        """Chosen once, before anything is traced."""
        if not planned:
            ids = jax.ShapeDtypeStruct((draws.size(store.num_clients),), jnp.int32)
            planned.append(plan(strategy, keys.stream(key, "round"), state, Cohort(ids, store)))
        return planned[0]

    def compiled(state: State, store, times: int, rounds: int) -> Compiled:
        if (times, rounds) not in made:
            chunk = chunk_for(state, store)
            lowered = jitted.lower(state, store, times=times, rounds=rounds, chunk=chunk.clients)
            made[times, rounds] = Compiled(lowered.compile(), chunk)
        return made[times, rounds]

    looked: list[bool] = []

    def look(state: State) -> None:
        if not looked:
            refuse_counted_padding(strategy, state, store)
            looked.append(True)

    return Program(compiled, look)


def block_of(done: int, rounds: int, every: int, measures_per_call: int = 1) -> tuple[int, int]:
    """(measurements, rounds before each) of the call after `done` rounds: measured are the
    multiples of `every` and the last round, wherever the run goes on from."""
    aligned = done % every == 0
    times = min(measures_per_call, (rounds - done) // every) if aligned else 0
    step = every if times else min(every - done % every, rounds - done)
    return max(times, 1), step


def _floats(tree):
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return leaves or [jnp.zeros(1)]
