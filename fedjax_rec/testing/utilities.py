"""The laws of a utility: what a client is worth follows the client, and padding teaches nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import chex
import jax.numpy as jnp
import numpy as np

from ..rounds.utility import Utility
from ..types import Cohort, PyTree, RoundInfo
from . import worlds
from .laws import KEY, Kind, check, close, compiled, expect, same_bits, traced_once
from .programs import keys_once

PLACES = 3
TURNED = np.array([4, 6, 2, 0, 5, 3, 1])


@dataclass(frozen=True)
class Valuing:
    part: Utility
    store: object
    start: PyTree
    value: Callable
    observe: Callable


def _bench(utility: Utility) -> Valuing:
    store = worlds.interactions().store
    return Valuing(
        utility, store, utility.init(worlds.USERS),
        traced_once(
            lambda key, state, round, cohort: utility.value(key, state, round, cohort, PLACES)
        ),
        compiled(utility.observe),
    )  # fmt: skip


def _cohort(this: Valuing, turned: Any = slice(None)) -> Cohort:
    ids = jnp.int32([0, 1, 2, 3, 4, worlds.USERS, worlds.USERS])
    return Cohort(ids[turned], this.store)


def _reports(ids) -> RoundInfo:
    there = np.asarray(ids) < worlds.USERS
    loss = jnp.float32(np.where(there, 0.1 + 0.05 * np.asarray(ids), 0.0))
    metrics = {"loss": loss, "client_seconds": 1 + 10 * loss, "steps": jnp.ones(len(there))}
    weight = jnp.float32(there * (1.0 + np.asarray(ids)))
    return RoundInfo(metrics, weight, jnp.uint32(there), jnp.uint32(there))


def _seen(this: Valuing, ids=(1, 3, 4), state=None):
    """The state after a round of the clients `ids`."""
    state = this.start if state is None else state
    ids = jnp.int32(ids)
    return this.observe(state, jnp.int32(0), ids, _reports(ids))


def values_are_one_a_candidate(this: Valuing) -> None:
    """value(...) is float[C], a number or infinity for every client there is."""
    for state in (this.start, _seen(this)):
        worth = this.value(KEY, state, jnp.int32(1), _cohort(this))
        chex.assert_shape(worth, (worlds.USERS,))
        there = np.asarray(_cohort(this).ids) < worlds.USERS
        expect(not np.isnan(np.asarray(worth)[there]).any(), f"they are {worth}")


def values_follow_the_client(this: Valuing) -> None:
    """Candidates in another order, among padding, are worth the same."""
    state, there = _seen(this), np.asarray(_cohort(this, TURNED).ids) < worlds.USERS
    here, other = (
        this.value(KEY, state, jnp.int32(1), _cohort(this, t)) for t in (slice(None), TURNED)
    )
    close(np.asarray(other)[there], np.asarray(here)[TURNED][there])


def padding_teaches_nothing(this: Valuing) -> None:
    """Ids of padding leave the state as it is; the order of reports does not matter."""
    plain = _seen(this)
    same_bits(_seen(this, (4, worlds.USERS, 1, 3)), plain)
    same_bits(_seen(this, (worlds.USERS,) * 3), this.start)


def state_keeps_its_shape(this: Valuing) -> None:
    """After a round it has the structure, shapes and dtypes of init(num_clients)."""
    chex.assert_trees_all_equal_shapes_and_dtypes(_seen(this), this.start)


def a_key_gives_the_same_bits(this: Valuing) -> None:
    """A function of its arguments, and one trace serves all rounds."""
    ask = lambda: this.value(KEY, this.start, jnp.int32(0), _cohort(this))
    same_bits(ask(), ask())
    this.value(KEY, _seen(this), jnp.int32(5), _cohort(this))


def keys_are_consumed_once(this: Valuing) -> None:
    """No two draws use one key."""
    keys_once(
        lambda key: this.part.value(key, this.start, jnp.int32(0), _cohort(this), PLACES), KEY
    )


UTILITY = Kind(
    "utility",
    _bench,
    (
        values_are_one_a_candidate, values_follow_the_client, padding_teaches_nothing,
        state_keeps_its_shape, a_key_gives_the_same_bits, keys_are_consumed_once,
    ),
)  # fmt: skip


def check_utility(utility: Utility) -> None:
    """Holds the laws of utilities against one; clients report `loss`, `client_seconds` and `steps`.

    Args:
        utility: the part.

    Raises:
        AssertionError: a law is broken; the line says which, and what came.

    Example:
        testing.check_utility(strategies.oort())
    """
    check(UTILITY, utility)
