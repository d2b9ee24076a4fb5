"""The loop: however rounds are grouped into calls, and wherever a run goes on, the same bits."""

import os
from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from crowd import KEY, N, crowd, factorization, gauge, packed, same, walk

from fedjax_rec import evaluate, keys
from fedjax_rec.simulate import Diverged, aggregated, cohorts, simulate
from fedjax_rec.types import Cohort

ROUNDS = 7
# As `uniform(4)`, which takes long to compile.
FOUR = cohorts.Cohorts(
    lambda n: 4,
    lambda key, round, n: (jax.random.randint(key, (), 0, n) + 2 * jnp.arange(4) + round) % n,
)


def run(rounds=ROUNDS, strategy=None, **kwargs):
    """[(round, state, metrics, values)] of a run of the toy, 4 clients a round."""
    out = []
    kwargs = {"cohorts": FOUR, "measure": gauge(), **kwargs}
    for p in simulate(strategy or walk(), crowd(), rounds, KEY, **kwargs):
        out.append((p.round, p.state, p.metrics, p.values))
    return out


@pytest.fixture(scope="module")
def one_by_one():
    return run()


def without_time(metrics):
    return {k: v for k, v in metrics.items() if k != "seconds"}


def test_every_round_is_measured_by_default(one_by_one):
    assert [r for r, *_ in one_by_one] == list(range(1, ROUNDS + 1))
    for r, state, metrics, values in one_by_one:
        assert metrics["round"] == r == int(state.round)
        assert metrics["clients"] == 4 and metrics["seconds"] > 0
        assert values["test"].shape == (2, 1)
        assert metrics["level"] == pytest.approx(values["test"].mean())
        assert metrics["validation_level"] == pytest.approx(2 * metrics["level"], rel=1e-6)
        assert isinstance(metrics["bytes_up"], int)
        assert metrics["bytes_down"] == 2 * metrics["bytes_up"]


def test_bytes_of_a_client_are_of_those_who_got_some():
    """Two of the four of a round get nothing, of whom one sends: over 2 and over 3."""
    strategy = walk()

    def half(key, state, cohort, chunk=None):
        state, info = strategy.round(key, state, cohort)
        got = jnp.arange(4) < 2
        down = jnp.where(got, info.bytes_down, 0)
        return state, replace(info, bytes_down=down, bytes_up=jnp.where(jnp.arange(4) < 3, 6, 0))

    for _, _, metrics, _ in run(2, replace(strategy, round=half)):
        assert metrics["bytes_down_per_client"] == metrics["bytes_down"] / 2
        assert metrics["bytes_up"] == 18 and metrics["bytes_up_per_client"] == 6


def test_rounds_are_those_of_the_strategy(one_by_one):
    """The first three, by hand: the keys that the loop promises."""
    strategy, store, drawn = walk(), crowd(), FOUR
    state = strategy.init(keys.stream(KEY, "init"), N)
    for r in range(3):
        key = jax.random.fold_in(keys.stream(KEY, "cohort"), r)
        ids = drawn.draw(key, r, N)
        step = jax.jit(strategy.round)
        state, info = step(keys.stream(KEY, "round"), state, Cohort(ids, store))
        np.testing.assert_allclose(state.shared["x"], one_by_one[r][1].shared["x"], rtol=1e-6)
        np.testing.assert_array_equal(state.private["seen"], one_by_one[r][1].private["seen"])
        assert one_by_one[r][2]["bytes_up"] == int(np.asarray(info.bytes_up).sum())
        assert one_by_one[r][2]["loss"] == pytest.approx(
            float(info.metrics["loss"].sum() / 4), rel=1e-5
        )


@pytest.mark.skipif(
    "fusion_emitters=false" in os.environ.get("XLA_FLAGS", ""), reason="XLA's own bits differ there"
)
@pytest.mark.parametrize(("every", "at_once"), [(1, 3), (2, 2), (3, 1), (10, 1)])
def test_blocks_give_the_same_bits_as_round_by_round(one_by_one, every, at_once):
    blocks = run(every=every, measures_per_call=at_once)
    measured = [r for r in range(1, ROUNDS + 1) if r % every == 0 or r == ROUNDS]
    assert [r for r, *_ in blocks] == measured
    same(blocks[-1][1], one_by_one[-1][1])
    begin = 0
    for r, _, metrics, values in blocks:
        alone = one_by_one[r - 1]
        same(values, alone[3])
        for name in ("loss", "level", "validation_level", "clients"):
            assert metrics[name] == alone[2][name]
        span = [m["bytes_up"] for _, _, m, _ in one_by_one[begin:r]]
        assert metrics["bytes_up"] == sum(span)
        begin = r


@pytest.mark.parametrize(("every", "stop"), [(2, 3), (3, 4)])
def test_a_run_goes_on_to_the_same_bits(one_by_one, every, stop):
    first = run(rounds=stop, every=every)
    rest = run(every=every, state=first[-1][1])
    same(rest[-1][1], one_by_one[-1][1])
    # Wherever it stopped, the multiples of `every` are measured again.
    assert [r for r, *_ in rest] == [
        r for r in range(stop + 1, ROUNDS + 1) if r % every == 0 or r == ROUNDS
    ]
    for r, _, metrics, values in rest:
        same(values, one_by_one[r - 1][3])
        assert metrics["loss"] == one_by_one[r - 1][2]["loss"]


def test_a_finished_run_yields_nothing_more(one_by_one):
    assert run(state=jax.tree.map(jnp.copy, one_by_one[-1][1])) == []
    assert run(rounds=0) == []


def test_other_keys_give_other_runs(one_by_one):
    (*_, last) = simulate(walk(), crowd(), 1, jax.random.key(6), FOUR)
    assert not np.allclose(last.state.shared["x"], one_by_one[0][1].shared["x"])


def test_blocks_of_one_shape_are_traced_once():
    traces: list = []
    steps = simulate(walk(traces), crowd(), 8, KEY, every=2)
    next(steps)
    first = len(traces)
    list(steps)
    assert len(traces) == first > 0
    # A remainder has another length, and is the only other program.
    list(simulate(walk(traces), crowd(), 9, KEY, every=2))
    assert len(traces) <= 3 * first


@pytest.mark.parametrize(("every", "at_once"), [(1, 1), (1, 3), (4, 1)])
def test_a_loss_that_is_nan_stops_the_run_and_names_the_round(every, at_once):
    steps = simulate(walk(wrong_from=5), crowd(), 12, KEY, every=every, measures_per_call=at_once)
    seen = []
    with pytest.raises(Diverged, match=r"^round 5: the loss is nan; lower the learning rates"):
        seen.extend(p.round for p in steps)
    assert seen == [r for r in (1, 2, 3, 4) if r % every == 0]


def test_a_model_that_is_infinite_stops_the_run():
    with pytest.raises(Diverged, match=r"^round 3: the model is not finite; lower"):
        list(simulate(walk(wrong_from=3, spoil="model"), crowd(), 5, KEY))


def test_a_round_without_clients_is_a_round():
    nobody = cohorts.Cohorts(lambda n: n, lambda key, round, n: jnp.full(n, n, jnp.int32))
    (only,) = run(rounds=1, cohorts=nobody)
    assert only[2]["clients"] == 0 and np.isnan(only[2]["loss"]) and only[2]["bytes_up"] == 0
    assert float(only[1].private["seen"].sum()) == 0


def test_a_cohort_that_names_a_client_twice_ends_the_run():
    twice = cohorts.Cohorts(
        lambda n: 3, lambda key, round, n: jnp.where(round < 2, jnp.int32([0, 4, n]), 4)
    )
    with pytest.raises(ValueError, match="the cohort of round 3 names a client twice"):
        run(cohorts=twice, every=4)


def test_padding_counts_for_nothing():
    half = cohorts.dropout(cohorts.full(), 0.5)
    for _, state, metrics, _ in run(cohorts=half, rounds=3):
        assert metrics["clients"] < N
        last = state
    assert float(last.private["seen"].sum()) < 3 * N


def test_without_a_measure_the_loss_is_reported():
    (only,) = run(rounds=1, measure=None)
    assert set(only[2]) == {
        "round", "seconds", "loss", "clients", "rejected", "rejected_share", "bytes_up",
        "bytes_down", "bytes_up_per_client", "bytes_down_per_client",
    }  # fmt: skip
    assert only[3] == {}


@pytest.mark.parametrize(
    ("kwargs", "told"),
    [
        ({"cohorts": cohorts.uniform(N + 1)}, f"use size <= {N}"),
        ({"every": 0}, "simulate(every=0)"),
        ({"measures_per_call": 0}, "simulate(measures_per_call=0)"),
        ({"rounds": -1}, "simulate(rounds=-1)"),
    ],
)
def test_errors_come_before_anything_runs(kwargs, told):
    with pytest.raises(ValueError) as error:
        list(simulate(walk(), crowd(), **{"rounds": 2, "key": KEY, **kwargs}))
    assert told in str(error.value)


def test_matrix_factorization_resumes_to_the_same_bits():
    """A real strategy with private state: 4 rounds, against 2 and 2 in blocks of two."""
    data = packed(users=6)
    strategy = factorization(data)
    protocol = evaluate.full_catalogue(evaluate.metrics(["hr@3"]), data.num_items)
    measure = aggregated(strategy.model, protocol, {"test": data.test})
    kwargs = {"cohorts": cohorts.uniform(3), "measure": measure, "every": 2}
    (a, b) = [
        (p.state, without_time(p.metrics)) for p in simulate(strategy, data.store, 4, KEY, **kwargs)
    ]
    (c,) = simulate(strategy, data.store, 4, KEY, state=a[0], **kwargs)
    same(c.state, b[0])
    assert without_time(c.metrics) == b[1]


def test_a_state_may_be_kept_and_one_that_was_not_asked_for_is_gone():
    steps = simulate(walk(), crowd(), 3, KEY, FOUR)
    first = next(steps)
    best = first.state
    second = next(steps)
    third = next(steps)
    assert int(best.round) == 1 and int(third.state.round) == 3
    assert np.isfinite(np.asarray(jax.tree.leaves(best.shared)[0])).all()
    if any(x.is_deleted() for x in jax.tree.leaves(second.running)):
        with pytest.raises(RuntimeError, match=r"take step\.state inside the loop"):
            _ = second.state


def test_a_state_that_holds_one_array_twice_may_be_run_from():
    """As that of a strategy which wraps another and remembers the model beside it."""
    inner = walk()

    def init(key, num_clients):
        state = inner.init(key, num_clients)
        return replace(state, server={"inner": state.server, "start": state.shared})

    def round(key, state, cohort, chunk=None):
        mine = replace(state, server=state.server["inner"])
        after, info = inner.round(key, mine, cohort, chunk)
        held = {"inner": after.server, "start": state.server["start"]}
        return replace(after, server=held), info

    own = replace(inner, init=init, round=round, chunk=None)
    state = own.init(keys.stream(KEY, "init"), N)
    (*_, last) = simulate(own, crowd(), 2, KEY, FOUR, state=state)
    (*_, alone) = simulate(inner, crowd(), 2, KEY, FOUR)
    # Two programs: what XLA fuses differs between machines by the last bit.
    chex.assert_trees_all_close(last.state.shared, alone.state.shared, rtol=1e-6)
