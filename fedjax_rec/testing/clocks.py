"""The laws of a clock: seconds belong to a client, are finite, and grow with what it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from ..rounds.clock import Clock
from .laws import KEY, Kind, check, expect, finite, same_bits, traced_once
from .programs import keys_once

CLIENTS = 6
IDS = jnp.int32([3, 0, 5, 1, CLIENTS, CLIENTS])  # two are padding
EXAMPLES = jnp.float32([10, 0, 300, 7, 0, 0])
DOWN, UP = jnp.uint32([10, 0, 2**31, 700, 0, 0]), jnp.uint32([9, 0, 2**20, 50, 0, 0])


@dataclass(frozen=True)
class Timing:
    part: Clock
    seconds: Callable


def _bench(clock: Clock) -> Timing:
    return Timing(clock, traced_once(clock.seconds))


def _asked(this: Timing):
    return this.seconds(KEY, IDS, EXAMPLES, DOWN, UP)


def seconds_are_finite(this: Timing) -> None:
    """seconds(...) is float32[c], finite and not negative, of padding too."""
    took = _asked(this)
    expect(took.shape == IDS.shape and took.dtype == jnp.float32, f"{took.dtype}{list(took.shape)}")
    finite(took)
    expect((took >= 0).all(), f"they are {took}")


def seconds_belong_to_a_client(this: Timing) -> None:
    """In another order each client takes what it takes in this one."""
    turned = np.array([4, 2, 0, 5, 3, 1])
    other = this.seconds(KEY, *(x[turned] for x in (IDS, EXAMPLES, DOWN, UP)))
    there = np.asarray(IDS)[turned] < CLIENTS
    same_bits(other[there], _asked(this)[turned][there])


def more_takes_no_less(this: Timing) -> None:
    """More examples, more bytes down or more bytes up are not faster."""
    before, args = np.asarray(_asked(this)), (EXAMPLES, DOWN, UP)
    for i, x in enumerate(args):
        more = [*args[:i], x + jnp.asarray(1000, x.dtype), *args[i + 1 :]]
        after = np.asarray(this.seconds(KEY, IDS, *more))
        expect((after >= before)[IDS < CLIENTS].all(), f"{before} became {after}")


def a_key_gives_the_same_bits(this: Timing) -> None:
    """A function of its arguments, of one trace."""
    same_bits(_asked(this), _asked(this))


def keys_are_consumed_once(this: Timing) -> None:
    """No two draws use one key."""
    keys_once(this.part.seconds, KEY, IDS, EXAMPLES, DOWN, UP)


CLOCK = Kind(
    "clock",
    _bench,
    (
        seconds_are_finite, seconds_belong_to_a_client, more_takes_no_less,
        a_key_gives_the_same_bits, keys_are_consumed_once,
    ),
)  # fmt: skip


def check_clock(clock: Clock) -> None:
    """Holds the laws of clocks against one, of 6 clients where it knows how many there are.

    Args:
        clock: the part.

    Raises:
        AssertionError: a law is broken; the line says which, and what came.

    Example:
        testing.check_clock(strategies.lognormal_clock(jitter=0.1))
    """
    check(CLOCK, clock)
