"""Audits: real messages of real clients against the ledger."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from crowd import walk

from fedjax_rec import clients, compress, data, models, simulate, strategies, wire

KEY = jax.random.key(4)


@pytest.fixture(scope="module")
def world():
    found = data.synthetic(num_users=12, num_items=40, interactions_per_user=8)
    return data.pack(data.leave_one_out()(found), evaluation_negatives=0)


def strategy(world, uplink=None):
    model = models.fedmf(world.num_items, width=4)
    return strategies.fedmf(model, data.pointwise(2), uplink=uplink, batch_size=16)


@pytest.mark.parametrize("uplink", [None, compress.cast()], ids=["none", "cast"])
def test_the_ledger_of_the_round_is_what_the_messages_take(world, uplink):
    """All clients audited: the total is what the next round counts."""
    made = strategy(world, uplink)
    state = made.init(KEY, world.num_clients)
    found = simulate.audit(made, state, world.store, KEY, clients=12)
    (step,) = simulate.simulate(made, world.store, 1, KEY, state=state)
    assert found["clients"] == 12
    assert found["ledger"] == found["message"] == step.metrics["bytes_up"]
    assert step.metrics["bytes_up_per_client"] == step.metrics["bytes_up"] / 12


def symbols():
    """Ten symbols in 16 levels, almost all of them zero."""

    def encode(key, x, real):
        codes = jnp.where(jnp.abs(x) > jnp.abs(x).max() * 0.9, 1, 0).astype(jnp.uint8)
        return wire.Codes(codes, 16), ()

    return compress.leafwise(encode, lambda body, side, like: body.symbols.astype(like.dtype))


def test_range_coding_is_measured_on_the_bytes(world):
    if not wire.can_range_code():
        pytest.skip("constriction is not installed: pip install 'fedjax-rec[entropy]'")
    made = strategy(world, symbols())
    found = simulate.audit(made, made.init(KEY, 12), world.store, KEY, clients=5)
    assert found["clients"] == 5
    assert 0 < found["range_coded"] < found["message"]


def test_without_packets_there_is_nothing_to_audit(world):
    with pytest.raises(ValueError, match="sends no packets"):
        simulate.audit(walk(), None, world.store, KEY)
    with pytest.raises(ValueError, match=r"audit\(clients=0\)"):
        simulate.audit(strategy(world), None, world.store, KEY, clients=0)


def test_a_ledger_that_lies_is_caught(world):
    made = strategy(world)
    state = made.init(KEY, world.num_clients)

    def lying(key, state, cohort):
        packets, ledger = made.packets(key, state, cohort)
        return packets, ledger - 1

    with pytest.raises(RuntimeError, match="ledger counts"):
        simulate.audit(replace(made, packets=lying), state, world.store, KEY, clients=2)


def test_a_round_that_counts_something_else_is_caught(world):
    made = strategy(world)

    def fewer(key, state, cohort, chunk=None):
        state, info = made.round(key, state, cohort, chunk)
        return state, replace(info, bytes_up=info.bytes_up * 2 // 3)

    state = made.init(KEY, world.num_clients)
    with pytest.raises(RuntimeError, match="the round counts"):
        simulate.audit(replace(made, round=fewer), state, world.store, KEY, clients=2)


def chosen(world, model):
    wait = {"clock": strategies.lognormal_clock()}
    training = {"optimizer": clients.sgd(1.0), "batch_size": 16}
    inner = strategies.fedavg(model, data.pointwise(2), **training, **wait)
    return strategies.over_selection(inner, 8)


def passed_on(world, model):
    client = clients.local_training(model, data.pointwise(2), clients.sgd(1.0))
    return strategies.decentralized(client, model, strategies.cycle())


def late(world, model):
    client = clients.local_training(model, data.pointwise(2), clients.sgd(1.0))
    return strategies.asynchronous(client, model, strategies.lognormal_clock(), concurrency=10)


@pytest.mark.parametrize("make", [chosen, passed_on, late])
def test_the_round_is_that_of_the_whole_cohort(world, make):
    """Of those who are looked at some are not asked, some send to several, and some arrive later
    than others."""
    made = make(world, models.fedmf(world.num_items, width=4))
    *_, last = simulate.simulate(made, world.store, 3, KEY, simulate.uniform(9))
    found = simulate.audit(made, last.state, world.store, KEY, 3, simulate.uniform(9))
    assert found["clients"] == 3
    assert found["ledger"] == found["message"] > 0


def test_the_same_key_audits_the_same_clients(world):
    made = strategy(world)
    state = made.init(KEY, world.num_clients)
    a, b = (simulate.audit(made, state, world.store, KEY, clients=3) for _ in range(2))
    assert a == b
    others = {
        simulate.audit(made, state, world.store, jax.random.key(s), 3)["ledger"] for s in range(6)
    }
    assert len(others) > 1 and np.isfinite(a["ledger"])
