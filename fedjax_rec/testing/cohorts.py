"""The laws of cohorts: each client at most once, padding behind N, and all from one key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ..simulate.cohorts import Cohorts
from .laws import KEY, Kind, check, expect, same_bits, traced_once
from .programs import keys_once

ROUNDS = 12


@dataclass(frozen=True)
class Drawing:
    part: Cohorts
    clients: int
    draw: Callable
    random: bool


def _bench(cohorts: Cohorts, *, clients: int = 6, random: bool = False) -> Drawing:
    return Drawing(
        cohorts, clients, traced_once(lambda key, t: cohorts.draw(key, t, clients)), random
    )


def _drawn(this: Drawing) -> list[np.ndarray]:
    return [np.asarray(this.draw(jax.random.fold_in(KEY, t), jnp.int32(t))) for t in range(ROUNDS)]


def places_are_as_many_as_said(this: Drawing) -> None:
    """draw(...) is int32[size(N)] with 1 <= size(N) <= N."""
    size = this.part.size(this.clients)
    expect(1 <= size <= this.clients, f"size({this.clients}) is {size}")
    for ids in _drawn(this):
        expect(
            ids.shape == (size,) and ids.dtype == np.int32,
            f"{ids.dtype}{list(ids.shape)} of {size} places",
        )


def nobody_is_drawn_twice(this: Drawing) -> None:
    """Ids are 0 to N - 1, each once, and N for empty places."""
    for ids in _drawn(this):
        real = ids[ids != this.clients]
        expect(((real >= 0) & (real < this.clients)).all(), f"{ids} of {this.clients} clients")
        expect(len(np.unique(real)) == len(real), f"{ids}")


def chance_is_chance(this: Drawing) -> None:
    """Where `random` is claimed, rounds and keys differ."""
    if this.random:
        drawn = {tuple(np.sort(ids)) for ids in _drawn(this)}
        expect(len(drawn) > 1, f"{ROUNDS} rounds have one cohort, {drawn}")


def a_key_gives_the_same_bits(this: Drawing) -> None:
    """A function of its arguments, and one trace serves all rounds."""
    same_bits(_drawn(this), _drawn(this))


def keys_are_consumed_once(this: Drawing) -> None:
    """No two draws use one key."""
    keys_once(lambda key: this.part.draw(key, jnp.int32(0), this.clients), KEY)


COHORTS = Kind(
    "cohorts",
    _bench,
    (
        places_are_as_many_as_said, nobody_is_drawn_twice, chance_is_chance,
        a_key_gives_the_same_bits, keys_are_consumed_once,
    ),
)  # fmt: skip


def check_cohorts(cohorts: Cohorts, *, clients: int = 6, random: bool = False) -> None:
    """Holds the laws of cohorts against one.

    Args:
        cohorts: the part.
        clients: N, of whom it draws.
        random: claims that rounds differ.

    Raises:
        AssertionError: a law is broken; the line says which, and what came.

    Example:
        testing.check_cohorts(simulate.uniform(4), random=True)
    """
    check(COHORTS, cohorts, clients=clients, random=random)
