"""Which model is measured after a round: the aggregated one, or each client's own.

A measure maps (state, info of the last round) to `{part: float32[U, M]}`, one row a user, NaN
where a user was not measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ..evaluate import Protocol, evaluate_users
from ..types import Model, RoundInfo, State


@dataclass(frozen=True)
class Measure:
    """values(state, info, ids) -> {part: float32[U, M]}; protocol: what the numbers are.
    cases: part -> `data.Cases`, whose users the rows are."""

    values: Callable[..., dict[str, jax.Array]]
    protocol: Protocol
    cases: Mapping


def aggregated(model: Model, protocol: Protocol, parts: Mapping, users_per_chunk: int = 32):
    """Every user's client scores with the server's model and its own private state."""

    def values(state: State, info: RoundInfo, ids: jax.Array):
        return {
            name: evaluate_users(
                model, protocol, state.shared, state.private, cases, users_per_chunk
            )
            for name, cases in parts.items()
        }

    return Measure(values, protocol, dict(parts))


def personal(protocol: Protocol, parts: Mapping):
    """What `evaluate.probe_clients` saw of each client's own model in the last round; users whose
    client was not in the cohort are NaN."""

    def values(state: State, info: RoundInfo, ids: jax.Array):
        out = {}
        for name, cases in parts.items():
            seen = jnp.full((cases.users.shape[0], len(protocol.names)), jnp.nan)
            row = cases.rows.at[ids].get(mode="fill", fill_value=-1)
            row = jnp.where(row < 0, seen.shape[0], row)
            out[name] = seen.at[row].set(info.metrics[name], mode="drop")
        return out

    return Measure(values, protocol, dict(parts))
