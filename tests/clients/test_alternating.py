"""Groups of parameters that take turns, against the optimizer within."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rounds import now

from fedjax_rec import clients
from fedjax_rec.strategies import adapters

PARAMS = {"shared": {"a": jnp.ones(2), "b": jnp.ones(2), "c": jnp.ones(2)}, "private": {}}
SLOPES = {"shared": {"a": jnp.full(2, 1.0), "b": jnp.full(2, 2.0), "c": jnp.full(2, 3.0)},
          "private": {}}  # fmt: skip
RATE = 0.1


@functools.partial(jax.jit, static_argnums=0)
def stepped(local, now, active):
    return local.apply(local.init(PARAMS, now), PARAMS, SLOPES, active, now)[1]["shared"]


def step(local, round=0, active=True):
    """Of each leaf its first number after a step, in a round that is traced."""
    return {name: float(x[0]) for name, x in stepped(local, now(round), active).items()}


@pytest.mark.parametrize(("round", "moved"), [(0, "b"), (1, "a"), (2, "b"), (5, "a")])
def test_one_group_moves_and_what_is_in_none_always(round, moved):
    local = adapters.alternating(clients.sgd(RATE), ("shared/b", "*a"))
    rest = {"a", "b"} - {moved}
    plain = step(clients.sgd(RATE))
    got = step(local, round)
    assert got[moved] == plain[moved] and got["c"] == plain["c"]
    assert got[rest.pop()] == 1.0
    assert step(local, round, active=False) == {"a": 1.0, "b": 1.0, "c": 1.0}


def test_schedules_within_follow_the_round():
    inner = clients.scheduled(optax.sgd, lambda round: 0.1 * (round + 1.0))
    local = adapters.alternating(inner, ("*b", "*a"))
    np.testing.assert_allclose(step(local, 3)["a"], 1 - 0.4, rtol=1e-6)


def test_refusals():
    with pytest.raises(ValueError, match="alternates nothing; give two patterns"):
        adapters.alternating(clients.sgd(RATE), ("*a",))
    with pytest.raises(ValueError, match="'lora' fits no parameter; there are shared/a"):
        adapters.alternating(clients.sgd(RATE), ("*a", "lora")).init(PARAMS, now())
