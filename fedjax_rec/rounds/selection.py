"""Who of the drawn clients takes part: m of the C candidates.

- `selecting`       those of highest utility, see `utility`
- `over_selection`  those that are done first (Bonawitz et al., MLSys 2019)

The cohort is the set of candidates; the strategy inside sees a cohort of m clients. They nest:
`selecting(selecting(s, power_of_choice(), m), by_size(), d)` with everybody as the cohort is the
whole of power-of-choice, whose d candidates are drawn by size.

`N` clients, `C` candidates, `m` of them chosen.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from .. import keys, trees
from ..check import at_least
from ..types import Cohort, PyTree, RoundInfo, State, Strategy
from .inside import inside
from .utility import Utility


def selecting(strategy: Strategy, utility: Utility, clients: int) -> Strategy:
    """`strategy` on `clients` of the candidates, or on all where there are fewer.

    RoundInfo is in the order of the candidates; of who is not chosen it reads 0, and NaN in metrics
    of several numbers a client, which is how a measure knows that a probe saw nothing. `packets`
    are of all candidates, each as if it were chosen.

    Args:
        strategy: what the chosen play.
        utility: what it is worth to have a client; the highest are chosen.
        clients: m, how many.

    Raises:
        ValueError: for clients < 1 and, in the round, for fewer candidates than `clients`.

    Example:
        >>> strategy = strategies.fedavg(model, data.pointwise(4))
        >>> few = strategies.selecting(strategy, strategies.power_of_choice(), clients=2)
    """
    at_least("selecting", "clients", clients, 1)

    def init(key, num_clients: int) -> State:
        return _around(strategy.init(key, num_clients), utility.init(num_clients))

    def round(key, state: State, cohort: Cohort, chunk: int | None = None):
        _check_places("selecting", clients, cohort)
        draw = keys.stream(jax.random.fold_in(key, state.round), "selection")
        known = state.server["selection"]
        value_key, lot_key = jax.random.split(draw)
        value = utility.value(value_key, known, state.round, cohort, clients)
        lot = jax.vmap(jax.random.uniform)(keys.for_client(lot_key, cohort.ids))
        ids = _first(clients, cohort, lot, -value)
        inner = keys.stream(key, "strategy")
        chosen = replace(cohort, ids=ids)
        after, info = strategy.round(inner, _inside(state), chosen, chunk)
        known = utility.observe(known, state.round, ids, info)
        return _around(after, known), of_cohort(info, ids, cohort)

    within = inside(strategy, _inside, "strategy")
    rule: Any = within.chunk

    def chosen(key, state: State, cohort: Cohort) -> int:
        ids = jax.eval_shape(lambda ids: ids[:clients], cohort.ids)
        return rule(key, state, replace(cohort, ids=ids))

    return replace(within, init=init, round=round, chunk=chosen if rule else None)


def over_selection(strategy: Strategy, clients: int) -> Strategy:
    """`strategy` on the `clients` of the cohort that are done first by its clock; the others are
    told to stop.

    Whoever is stopped has got the model, which its bytes down say, and keeps nothing of the round:
    it reads as not chosen in `selecting`. Clients without data come last. Who is first depends on
    the bytes of the real packets: a first pass over the cohort finds them. It costs a round where
    they depend on what was trained, and little where the compiler sees that they do not (updates as
    they are).

    Args:
        strategy: one with a clock, such as `federated(clock=...)`.
        clients: m, how many are waited for.

    Raises:
        ValueError: as `selecting`, and for a strategy without a clock.

    Example:
        >>> clock = strategies.lognormal_clock()
        >>> strategy = strategies.fedavg(model, data.pointwise(4), clock=clock)
        >>> first = strategies.over_selection(strategy, clients=2)
    """
    at_least("over_selection", "clients", clients, 1)

    def round(key, state: State, cohort: Cohort, chunk: int | None = None):
        _check_places("over_selection", clients, cohort)
        outlook = strategy.round(key, state, cohort, chunk)[1]
        if "client_seconds" not in outlook.metrics:
            raise ValueError(
                "over_selection(strategy) knows no times; give the strategy a clock, "
                "federated(clock=lognormal_clock())."
            )
        seconds = outlook.metrics["client_seconds"]
        first = jnp.where(cohort.data.sizes(cohort.ids) > 0, seconds, jnp.inf)
        ids = _first(clients, cohort, cohort.ids, first)
        told = cohort.ids if cohort.stopped is None else cohort.stopped
        state, info = strategy.round(key, state, replace(cohort, ids=ids, stopped=told), chunk)
        return state, replace(of_cohort(info, ids, cohort), bytes_down=outlook.bytes_down)

    return replace(strategy, round=round)


def of_cohort(info: RoundInfo, ids: jax.Array, cohort: Cohort) -> RoundInfo:
    """`info` of the clients `ids`, sorted, in the order of `cohort`: 0 of those it is not about,
    NaN in metrics of several numbers."""
    place = jnp.minimum(jnp.searchsorted(ids, cohort.ids), ids.shape[0] - 1)
    about = (ids[place] == cohort.ids) & (cohort.ids < cohort.data.num_clients)

    def one(x, nothing: float = 0):
        return jnp.where(trees.leading(about, x), x[place], jnp.asarray(nothing, x.dtype))

    def metric(x):
        several = x.ndim > 1 and jnp.issubdtype(x.dtype, jnp.floating)
        return one(x, jnp.nan if several else 0)

    counts = replace(info, metrics={})
    metrics = {name: metric(x) for name, x in info.metrics.items()}
    return replace(jax.tree.map(one, counts), metrics=metrics)


def _first(count: int, cohort: Cohort, lot: jax.Array, rank: jax.Array) -> jax.Array:
    """int32[count]: the clients of least rank, equals by lot, sorted by id, padding behind."""
    nobody = cohort.data.num_clients
    order = jnp.lexsort((lot, rank, cohort.ids >= nobody))[:count]
    return jnp.sort(jnp.minimum(cohort.ids[order], nobody))


def _inside(state: State) -> State:
    return replace(state, server=state.server["strategy"])


def _around(state: State, known: PyTree) -> State:
    return replace(state, server={"strategy": state.server, "selection": known})


def _check_places(where: str, clients: int, cohort: Cohort) -> None:
    if clients > cohort.ids.shape[0]:
        raise ValueError(
            f"{where}(clients={clients}) of a cohort of {cohort.ids.shape[0]}; use a larger "
            f"cohort, or clients <= {cohort.ids.shape[0]}."
        )
