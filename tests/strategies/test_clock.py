"""Clocks: the sum of their parts, the same device every round, and the spread asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.rounds.clock import lognormal_clock, traced_clock

KEY = jax.random.key(0)


def test_seconds_of_a_trace_are_the_sum_of_their_parts():
    speed, down, up, latency = [10.0, 20.0, 40.0], [1e3, 2e3, 4e3], [100.0, 50.0, 25.0], [0, 1, 2]
    clock = traced_clock(speed, down, up, latency, epochs=3)
    ids, n = np.array([2, 0]), np.array([8.0, 4.0])
    got = clock.seconds(KEY, jnp.int32(ids), n, jnp.uint32([400, 500]), jnp.uint32([50, 300]))
    want = 3 * n / np.take(speed, ids) + np.array([400, 500]) / np.take(down, ids)
    want = want + np.array([50, 300]) / np.take(up, ids) + np.take(latency, ids)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert clock.clients == 3 and got.dtype == jnp.float32


def test_numbers_are_for_all_clients_and_bandwidth_may_be_infinite():
    clock = traced_clock(10.0, np.inf, np.inf, 0.5)
    got = clock.seconds(KEY, jnp.arange(5), jnp.full(5, 20.0), jnp.full(5, 9), jnp.full(5, 9))
    np.testing.assert_allclose(got, 2.5)
    assert clock.clients is None


def test_a_client_is_as_slow_in_every_round_and_cohort():
    clock = lognormal_clock(seed=4)
    ids = jnp.int32([7, 3, 11])
    ask = lambda key, ids: clock.seconds(key, ids, 100.0, jnp.uint32(5000), jnp.uint32(5000))
    a, b = ask(KEY, ids), ask(jax.random.key(9), ids[::-1])
    np.testing.assert_array_equal(a, b[::-1])
    assert len(np.unique(a)) == 3
    other = lognormal_clock(seed=5).seconds(KEY, ids, 100.0, jnp.uint32(5000), jnp.uint32(5000))
    assert not np.isclose(a, other).any()


@pytest.mark.parametrize("part", ["speed", "downlink", "uplink"])
def test_devices_spread_log_normally_around_the_median(part):
    """4,000 devices: median within 5%, standard deviation of the logarithm within 5%."""
    clock = lognormal_clock(
        speed=50.0, downlink=50.0, uplink=50.0, latency=0.0, spread=0.5, bandwidth_spread=1.5
    )
    amount = {name: jnp.float32(0) for name in ("speed", "downlink", "uplink")} | {part: 100.0}
    took = np.log(clock.seconds(KEY, jnp.arange(4000), *amount.values()))
    assert np.exp(np.median(took)) == pytest.approx(2.0, rel=0.1 if part != "speed" else 0.05)
    assert took.std() == pytest.approx(0.5 if part == "speed" else 1.5, rel=0.05)


def test_jitter_is_of_the_round_and_the_client():
    still, clock = traced_clock(1.0, 1e3, 1e3), traced_clock(1.0, 1e3, 1e3, jitter=0.3)
    ask = lambda clock, key, ids: clock.seconds(key, ids, 10.0, jnp.uint32(0), jnp.uint32(0))
    ids = jnp.arange(4000)
    a, b = ask(clock, KEY, ids), ask(clock, jax.random.key(1), ids)
    noise = np.log(a / ask(still, KEY, ids))
    assert noise.std() == pytest.approx(0.3, rel=0.05) and abs(noise.mean()) < 0.02
    assert abs(np.corrcoef(noise, np.log(b))[0, 1]) < 0.1
    np.testing.assert_array_equal(ask(clock, KEY, ids[::-1]), a[::-1])


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: lognormal_clock(speed=0), "lognormal_clock(speed=0) must be positive"),
        (lambda: lognormal_clock(uplink=-1), "lognormal_clock(uplink=-1)"),
        (lambda: lognormal_clock(spread=-1), "use spread >= 0"),
        (lambda: lognormal_clock(jitter=float("nan")), "jitter=nan"),
        (lambda: traced_clock([1.0, 0.0], 1.0, 1.0), "traced_clock(speed=...) must be positive"),
        (lambda: traced_clock(1.0, [float("nan")], 1.0), "traced_clock(downlink=...)"),
        (lambda: traced_clock(1.0, 1.0, [[1.0]]), "a number or a list"),
        (lambda: traced_clock(1.0, 1.0, 1.0, -1.0), "finite and at least 0"),
        (lambda: traced_clock([1.0, 2.0], [1.0], 1.0), "(speed 2, downlink 1)"),
        (lambda: traced_clock(1.0, 1.0, 1.0, epochs=0), "traced_clock(epochs=0)"),
    ],
)
def test_errors_name_the_argument_and_the_remedy(make, told):
    with pytest.raises(ValueError) as error:
        make()
    assert told in str(error.value) and "\n" not in str(error.value)
