"""Rounds by the clock: who is late, what that costs, and how long a round takes."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from pulling import KEY, MODEL, USERS, close, pulling, resumes, run, same, store

from fedjax_rec import compress, servers, strategies
from fedjax_rec.rounds.clock import Clock, lognormal_clock, traced_clock

# Examples over speed: clients 4, 9 and 14 are ten times as slow as the others.
SPEED = np.where(np.arange(USERS) % 5 == 4, 1.0, 10.0)
CLOCK = traced_clock(SPEED, 4e3, 1e3, 0.1)
COHORT = np.array([3, 9, 0, USERS, 14, 6, 11])


@pytest.fixture(scope="module")
def data():
    return store()


def federated(chunk=3, **kwargs):
    return strategies.federated(
        kwargs.pop("client", pulling()), MODEL, clients_per_chunk=chunk, **kwargs
    )


def remembering():
    return compress.error_feedback(compress.cast("bfloat16"))


def seconds(data, info, ids):
    """Of each client, from the bytes of a round without a clock."""
    n = np.asarray(data.length)[np.minimum(ids, USERS - 1)]
    took = n / SPEED[np.minimum(ids, USERS - 1)] + 0.1
    return took + np.asarray(info.bytes_down) / 4e3 + np.asarray(info.bytes_up) / 1e3


@pytest.fixture(scope="module")
def rounds(data):
    """(strategy, two rounds from the start: state and infos) without a clock, with one, and with a
    deadline."""
    parts = {"uplink": remembering()}, {"clock": CLOCK}, {"deadline": 2.0}
    made, kwargs = [], {}
    for part in parts:
        kwargs |= part
        strategy = federated(**kwargs)
        made.append((strategy, *run(strategy, data, [COHORT, COHORT[::-1]])))
    return made


def test_a_clock_alone_changes_no_model_and_says_how_long_rounds_take(data, rounds):
    (_, plain, (want, last)), (_, timed, (info, after)), _ = rounds
    parts = lambda state: (state.shared, state.private, state.memory)
    close(parts(plain), parts(timed))  # two programs
    for x in ("bytes_up", "bytes_down", "weight"):
        same(getattr(want, x), getattr(info, x))
    took, real = seconds(data, want, COHORT), COHORT < USERS
    np.testing.assert_allclose(info.metrics["client_seconds"], took * real, rtol=1e-5)
    longest = took[real].max()
    np.testing.assert_allclose(info.metrics["simulated_seconds"], longest * real, rtol=1e-5)
    again = seconds(data, last, COHORT[::-1])[real[::-1]].max()
    total = after.metrics["simulated_time"]
    np.testing.assert_allclose(total, (longest + again) * real[::-1], rtol=1e-5)
    np.testing.assert_allclose(timed.server["clock"], longest + again, rtol=1e-5)
    assert not np.asarray(info.metrics["late"]).any()


def test_who_is_late_weighs_nothing_and_remembers_nothing_of_it(data, rounds):
    """The model is that of a round of the others; the late have trained and downloaded."""
    strategy, begin, _ = rounds[2]
    after, (info,) = run(strategy, data, [COHORT], begin)
    others = np.where(np.isin(COHORT, [9, 14]), USERS, COHORT)
    want, (of_others,) = run(strategy, data, [others], begin)
    close(after.shared, want.shared)
    same(after.memory, want.memory)
    late = np.isin(COHORT, [9, 14])
    assert not np.asarray(info.weight)[late].any() and not np.asarray(info.bytes_up)[late].any()
    assert (np.asarray(info.bytes_down)[late] > 0).all()
    np.testing.assert_array_equal(info.bytes_up, of_others.bytes_up)
    moved = np.flatnonzero(np.asarray(after.private != begin.private))
    assert list(moved) == sorted(COHORT[COHORT < USERS])
    real = COHORT < USERS
    np.testing.assert_allclose(info.metrics["simulated_seconds"], 2.0 * real)
    np.testing.assert_allclose(info.metrics["late"], real * 2 / 6, rtol=1e-6)
    assert float(of_others.metrics["simulated_seconds"][0]) < 2.0
    assert not np.asarray(of_others.metrics["late"]).any()


def test_chunks_order_and_padding_change_nothing(data):
    make = lambda chunk: federated(chunk, clock=lognormal_clock(speed=5, jitter=0.2), deadline=1.5)
    a, (info,) = run(make(2), data, [COHORT])
    order = np.array([6, 0, 5, 3, 2, 4, 1])
    b, (other,) = run(make(7), data, [np.append(COHORT[order], USERS)])
    close(a, b)
    assert 0 < np.asarray(info.metrics["late"])[0] < 1
    for x, y in zip(jax.tree.leaves(info), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(np.asarray(x)[order], np.asarray(y)[:-1], rtol=1e-5)
        assert not np.asarray(y)[-1].any()


def test_where_everybody_is_late_only_time_goes_on(data):
    begin = federated(clock=CLOCK).init(KEY, USERS)
    after, (info,) = run(federated(clock=CLOCK, deadline=0.05), data, [COHORT])
    close(after.shared, begin.shared, atol=0)
    assert float(after.server["clock"]) == pytest.approx(0.05) and not info.weight.any()


SERVERS = {
    "step": strategies.step,
    "scheduled_step": lambda: strategies.scheduled_step(lambda t: 1 / (1 + t)),
    "stochastic_step": strategies.stochastic_step,
    "fed_adagrad": lambda: strategies.fed_adagrad(beta1=0.5),
    "fed_adam": strategies.fed_adam,
    "fed_yogi": strategies.fed_yogi,
    "fed_avg_m": lambda: strategies.fed_avg_m(0.1, 0.9),
    "fed_lion": strategies.fed_lion,
    "optax": lambda: optax.chain(optax.add_decayed_weights(0.1), optax.adam(0.01)),
}


def test_every_server_is_among_them():
    ships = {name for name in servers.__all__ if name not in ("as_server", "by_part")}
    assert ships == SERVERS.keys() - {"optax"} | {"from_optax"}


@pytest.mark.parametrize("name", SERVERS)
def test_no_server_moves_in_a_round_of_nobody_or_of_the_late_alone(name, data):
    """Its state neither, so that the next round is what it would have been."""
    strategy = federated(server=SERVERS[name](), clock=CLOCK, deadline=2.0)
    before, _ = run(strategy, data, [COHORT, COHORT[::-1]])
    for ids in (np.full_like(COHORT, USERS), np.where(np.isin(COHORT, [9, 14]), COHORT, USERS)):
        after, (info,) = run(strategy, data, [ids], before)
        assert not np.asarray(info.weight).any()
        same((after.shared, after.server["optimizer"]), (before.shared, before.server["optimizer"]))
        same(after.server["aggregator"], before.server["aggregator"])


def test_nobody_takes_no_time_and_a_client_without_data_is_waited_for_by_none(data):
    empty = replace(data, length=data.length.at[9].set(0))
    strategy = federated(clock=traced_clock(np.where(np.arange(USERS) == 9, 1e-9, 1e9), 1, 1))
    state, (info,) = run(strategy, empty, [[USERS] * 3])
    assert float(state.server["clock"]) == 0 and not info.weight.any()
    slow = traced_clock(1e9, np.where(np.arange(USERS) == 9, 1e-3, 1e9), 1e9)
    _, (info,) = run(federated(clock=slow, deadline=1.0), empty, [[9, 3, 4]])
    assert float(info.metrics["simulated_seconds"][1]) < 1e-3
    assert not np.asarray(info.metrics["late"]).any()


def test_the_clock_gets_the_bytes_of_the_broadcast(data):
    clock = traced_clock(np.inf, 1.0, np.inf)
    strategy = federated(clock=clock, downlink=compress.top_k(0.2))
    _, infos = run(strategy, data, [[0, 1, 2], [1, 2, 3]])
    for info in infos:
        np.testing.assert_array_equal(info.metrics["client_seconds"], info.bytes_down)
    assert infos[1].bytes_down[0] < infos[0].bytes_down[0]


def test_the_run_reports_the_seconds_of_the_round(data):
    last = resumes(federated(clock=CLOCK, deadline=2.0), data, 4)
    assert last.metrics["simulated_seconds"] == pytest.approx(2.0)
    assert last.metrics["simulated_time"] == pytest.approx(8.0)
    assert last.metrics["late"] == pytest.approx(3 / 15)
    assert last.metrics["clients"] == 12


def test_the_run_reports_the_seconds_of_a_round_in_which_all_are_late(data):
    last = resumes(federated(clock=CLOCK, deadline=0.05), data, 2)
    assert last.metrics["late"] == 1 and last.metrics["clients"] == 0
    assert last.metrics["simulated_time"] == pytest.approx(0.1)
    assert last.metrics["loss"] > 0, "of those that trained in vain"


def test_errors_name_the_argument_and_the_remedy(data):
    with pytest.raises(ValueError, match=r"federated\(deadline=3\) needs a clock; give clock="):
        federated(deadline=3)
    with pytest.raises(ValueError, match=r"federated\(deadline=0\) must be positive"):
        federated(clock=CLOCK, deadline=0)
    with pytest.raises(
        ValueError, match=r"describes 2 clients and there are 15; give traced_clock"
    ):
        run(federated(clock=traced_clock([1.0, 2.0], 1, 1)), data, [[0, 1]])
    any_number = Clock(lambda key, ids, examples, down, up: jnp.ones(ids.shape))
    assert float(run(federated(clock=any_number), data, [[0, 1]])[0].server["clock"]) == 1
