"""Who is chosen: by size, by loss, by Oort's utility, by speed; and what the others report."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pulling import KEY, MODEL, USERS, close, pulling, resumes, run, same, store

from fedjax_rec import compress, keys, models, simulate, strategies
from fedjax_rec import data as rooms
from fedjax_rec.rounds.clock import Clock, traced_clock
from fedjax_rec.rounds.selection import over_selection, selecting
from fedjax_rec.rounds.utility import Utility, by_size, oort, power_of_choice
from fedjax_rec.strategies import selective
from fedjax_rec.types import Cohort, RoundInfo

CANDIDATES = np.array([4, 12, USERS, 1, 9, 7, 14, 2])
BY_ID = Clock(lambda key, ids, examples, down, up: 20.0 - ids)


@pytest.fixture(scope="module")
def data():
    return store()


def federated(**kwargs):
    return strategies.federated(pulling(), MODEL, clients_per_chunk=4, **kwargs)


def told(value) -> Utility:
    """Each client's value is given."""
    at = lambda key, state, round, cohort, places: (
        jnp.asarray(value).at[cohort.ids].get(mode="clip")
    )
    return Utility(lambda n: (), at, lambda state, round, ids, info: state)


def chosen(utility, state, data, places, key=KEY, round=0, ids=None):
    """The candidates of highest utility."""
    ids = CANDIDATES if ids is None else ids
    value = utility.value(key, state, jnp.int32(round), Cohort(jnp.int32(ids), data), places)
    value = np.where(ids < USERS, value, -np.inf)
    return set(ids[np.argsort(-value)[:places]])


def reported(ids, loss, weight, **more):
    count = jnp.zeros(len(ids), jnp.uint32)
    metrics = {"loss": jnp.float32(loss)} | {k: jnp.float32(v) for k, v in more.items()}
    return jnp.int32(ids), RoundInfo(metrics, jnp.float32(weight), count, count)


def test_the_chosen_have_the_round_that_they_would_have_alone(data):
    """And the others, and padding, report nothing and are not touched."""
    strategy = selecting(federated(), told(np.cos(np.arange(USERS))), 3)
    begin = strategy.init(KEY, USERS)
    state, (info,) = run(strategy, data, [CANDIDATES], begin)
    real = CANDIDATES[CANDIDATES < USERS]
    best = sorted(real, key=lambda k: -np.cos(k))[:3]
    inner = keys.stream(KEY, "strategy")
    want, (alone,) = run(federated(), data, [np.sort(best)], federated().init(KEY, USERS), inner)
    same((state.shared, state.private), (want.shared, want.private))
    same(state.server["strategy"], want.server)
    mine = np.isin(CANDIDATES, best)
    place = np.searchsorted(np.sort(best), CANDIDATES[mine])
    for x, y in (
        (info.weight, alone.weight),
        (info.bytes_up, alone.bytes_up),
        (info.bytes_down, alone.bytes_down),
        (info.metrics["loss"], alone.metrics["loss"]),
    ):
        np.testing.assert_array_equal(np.asarray(x)[mine], np.asarray(y)[place])
        assert not np.asarray(x)[~mine].any() and np.asarray(x)[mine].all()
    assert np.isnan(np.asarray(info.metrics["seen"])[~mine]).all()
    assert (np.asarray(info.metrics["seen"])[mine] == 1).all()
    found = simulate.audit(strategy, state, data, KEY, clients=3)
    assert found["message"] == found["ledger"] > 0


def test_order_and_padding_change_nothing_and_equals_are_chosen_by_lot(data):
    strategy = selecting(federated(), told(np.zeros(USERS)), 3)
    order = np.array([7, 3, 5, 0, 1, 6, 4, 2])
    a, infos = run(strategy, data, [CANDIDATES] * 12)
    b, others = run(strategy, data, [CANDIDATES[order]] * 12)
    same(a, b)
    times = np.zeros(len(CANDIDATES))
    for x, y in zip(infos, others, strict=True):
        np.testing.assert_array_equal(np.asarray(x.weight)[order], y.weight)
        times += np.asarray(x.weight) > 0
    assert times.sum() == 36 and times[2] == 0 and (times > 0).sum() == 7 and times.max() < 11


def test_fewer_candidates_than_places_all_take_part(data):
    _, (info,) = run(selecting(federated(), by_size(), 3), data, [[USERS, 4, USERS, 7]])
    assert ((np.asarray(info.weight) > 0) == [False, True, False, True]).all()


def test_by_size_draws_in_proportion_without_replacement(data):
    """2,000 draws of 2 in 15 against the closed form of successive draws."""
    n = np.asarray(data.length, float)
    utility, cohort = by_size(), Cohort(jnp.arange(USERS), data)
    draw = jax.vmap(lambda k: utility.value(k, (), 0, cohort, 2))
    order = np.argsort(-np.asarray(draw(jax.random.split(KEY, 2000))), 1)
    share = n / n.sum()
    first = np.bincount(order[:, 0], minlength=USERS) / 2000
    second = np.bincount(order[:, 1], minlength=USERS) / 2000
    want = share * (share[None] / (1 - share[None]) * (1 - np.eye(USERS))).sum(1)
    for got, p in ((first, share), (second, want)):
        assert (np.abs(got - p) < 4.5 * np.sqrt(p * (1 - p) / 2000)).all()
    none = replace(data, length=data.length.at[3].set(0))
    assert np.asarray(utility.value(KEY, (), 0, Cohort(jnp.arange(USERS), none), 2))[3] == -np.inf


def test_power_of_choice_takes_the_never_chosen_then_the_highest_loss(data):
    utility = power_of_choice()
    state = utility.observe(utility.init(USERS), 0, *reported([4, 7, 9, USERS], [3, 1, 2, 9], 1))
    assert chosen(utility, state, data, 4) == {12, 1, 14, 2}
    late = reported([1, 2, 12, 14], [7, 7, 0.5, 2.5], [0, 1, 1, 1])
    state = utility.observe(state, 1, *late)
    # Client 1 had nothing to report.
    assert chosen(utility, state, data, 3) == {2, 4, 14}
    assert chosen(utility, state, data, 6) == {2, 4, 14, 9, 7, 12}


def oort_in_numpy(gain, last, seconds, round, preferred):
    u = (gain - gain.min()) / (gain.max() - gain.min())
    value = u + np.sqrt(0.1 * np.log(round) / last)
    return value * np.where(preferred < seconds, (preferred / seconds) ** 2.0, 1)


def test_oort_is_its_formula_on_clients_that_it_has_seen(data):
    utility = oort(preferred_seconds=2.0, explore=0.0, explore_least=0.0)
    state = utility.init(USERS)
    real = CANDIDATES[CANDIDATES < USERS]
    rng = np.random.default_rng(0)
    loss, weight = rng.uniform(0.1, 1, 7), rng.integers(1, 9, 7)
    seconds, last = rng.uniform(0.5, 6, 7), rng.integers(1, 9, 7)
    for k in range(7):
        one = reported([real[k]], [loss[k]], [weight[k]], client_seconds=[seconds[k]])
        state = utility.observe(state, jnp.int32(last[k] - 1), *one)
    value = utility.value(KEY, state, jnp.int32(11), Cohort(jnp.int32(CANDIDATES), data), 3)
    want = oort_in_numpy(loss * weight, last, seconds, 12, 2.0)
    np.testing.assert_allclose(np.asarray(value)[CANDIDATES < USERS], want, rtol=1e-5)
    # Too late: its time is known, and what there is to learn from it stays as it was.
    after = utility.observe(state, 11, *reported([real[0]], [9.0], [0], client_seconds=[50.0]))
    assert after["gain"][real[0]] == state["gain"][real[0]] and after["seconds"][real[0]] == 50


def test_oort_explores_its_share_and_fills_what_is_left(data):
    seen = reported([4, 12, 1, 9], [1, 2, 3, 4], 1)
    explores = oort(explore=1.0, decay=0.5, explore_least=0.25)
    state = explores.observe(explores.init(USERS), 0, *seen)
    new = {7, 14, 2}
    # All three places in round 1, then half, then a quarter in the mean.
    assert chosen(explores, state, data, 3, round=0) == new
    for round, share in ((1, 0.5), (5, 0.25)):
        counts = [
            len(chosen(explores, state, data, 4, jax.random.key(i), round) & new) for i in range(60)
        ]
        assert abs(np.mean(counts) - 4 * share) < 0.35 and np.ptp(counts) <= 1
    # Who has seen everybody fills the places with them, who has seen nobody with the new.
    none = oort(explore=0.0, explore_least=0.0)
    assert chosen(none, none.init(USERS), data, 3) <= new | {4, 12, 1, 9}
    assert {4, 12, 1, 9} < chosen(none, state, data, 5)
    firsts = {min(chosen(explores, state, data, 1, jax.random.key(i)) & new) for i in range(30)}
    assert firsts == new


@pytest.mark.parametrize("utility", ["oort", "power_of_choice"])
def test_selection_learns_from_its_rounds_and_resumes(data, utility):
    made = {"oort": oort(preferred_seconds=8.0), "power_of_choice": power_of_choice()}[utility]
    inner = selecting(federated(clock=BY_ID, deadline=18.0), made, 3)
    last = resumes(selecting(inner, by_size(), 8), data, 16)
    # Clients 0 and 1 are too late.
    assert 1 <= last.metrics["clients"] <= 3
    known = last.state.server["strategy"]["selection"]
    seen = known["round"] > 0 if utility == "oort" else np.isfinite(known)
    assert np.asarray(seen).sum() > 8


def test_the_recipe_asks_everybody_once_and_then_those_of_highest_loss():
    found = rooms.synthetic(num_users=USERS, num_items=40, interactions_per_user=9)
    ds = rooms.pack(rooms.leave_one_out()(found), evaluation_negatives=0)
    strategy = selective(models.fedmf(ds.num_items, width=4), rooms.pointwise(2), clients=5)
    _, infos = run(strategy, ds.store, [np.arange(USERS)] * 4)
    there = np.stack([np.asarray(i.weight) > 0 for i in infos])
    loss = np.stack([i.metrics["loss"] for i in infos])
    assert (there.sum(1) == 5).all() and (there[:3].sum(0) == 1).all()
    assert set(np.flatnonzero(there[3])) == set(np.argsort(-loss[:3].sum(0))[:5])


def test_a_run_plans_the_chunks_of_the_chosen_by_shapes_alone():
    found = rooms.synthetic(num_users=USERS, num_items=40, interactions_per_user=9)
    ds = rooms.pack(rooms.leave_one_out()(found), evaluation_negatives=0)
    strategy = selective(models.fedmf(ds.num_items, width=4), rooms.pointwise(2), clients=5)
    (only,) = simulate.simulate(strategy, ds.store, 1, KEY)
    assert only.metrics["clients"] == 5


def test_over_selection_keeps_the_fastest(data):
    """By real bytes; the others download, and are otherwise as if they had not been drawn."""
    speed = np.random.default_rng(3).uniform(1, 9, USERS)
    clock = traced_clock(speed, 1e3, 1e3)
    plain = federated(clock=clock)
    _, (everybody,) = run(plain, data, [CANDIDATES])
    seconds = np.where(CANDIDATES < USERS, everybody.metrics["client_seconds"], np.inf)
    fast = np.argsort(seconds)[:4]
    state, (info,) = run(over_selection(plain, 4), data, [CANDIDATES])
    want, _ = run(plain, data, [np.sort(CANDIDATES[fast])])
    close(state, want)
    mine = np.isin(np.arange(8), fast)
    assert ((np.asarray(info.weight) > 0) == mine).all()
    assert ((np.asarray(info.bytes_up) > 0) == mine).all()
    np.testing.assert_array_equal(info.bytes_down, everybody.bytes_down)
    took = np.asarray(info.metrics["simulated_seconds"])[mine]
    np.testing.assert_allclose(took, np.sort(seconds)[3], rtol=1e-5)


def test_who_is_stopped_has_the_model_and_is_not_sent_it_again(data):
    """With a downlink: the first round costs all the whole model, each later one a broadcast."""
    alike = Clock(lambda key, ids, examples, down, up: ids.astype(jnp.float32))
    strategy = over_selection(federated(clock=alike, downlink=compress.identity()), 3)
    _, infos = run(strategy, data, [[4, 12, 1, 9, 7, 2]] * 3)
    down = np.stack([np.asarray(i.bytes_down) for i in infos])
    assert (down[0] == down[0][0]).all() and (down[1:] < down[0]).all() and (down[1:] > 0).all()
    for later in down[1:]:
        assert (later == later[0]).all()


def test_over_selection_of_equals_keeps_just_as_many_and_nobody_without_data(data):
    alike = Clock(lambda key, ids, examples, down, up: jnp.ones(ids.shape))
    empty = replace(data, length=data.length.at[1].set(0))
    _, (info,) = run(over_selection(federated(clock=alike), 3), empty, [[USERS, 9, 1, 4, 7, 12]])
    assert list(np.asarray(info.weight) > 0) == [False, True, False, True, True, False]


def test_errors_name_the_argument_and_the_remedy(data):
    with pytest.raises(ValueError, match=r"selecting\(clients=0\) is too small"):
        selecting(federated(), by_size(), 0)
    with pytest.raises(ValueError, match=r"selecting\(clients=9\).*use a larger.*clients <= 8"):
        run(selecting(federated(), by_size(), 9), data, [CANDIDATES])
    with pytest.raises(ValueError, match=r"over_selection\(clients=9\) of a cohort of 8"):
        run(over_selection(federated(), 9), data, [CANDIDATES])
    with pytest.raises(ValueError, match=r"give the strategy a clock"):
        run(over_selection(federated(), 3), data, [CANDIDATES])
    with pytest.raises(ValueError, match=r"oort\(\) needs the metric 'client_seconds'.*'loss'"):
        run(selecting(federated(), oort(3.0), 3), data, [CANDIDATES])
    for make, match in (
        (lambda: oort(alpha=0), r"oort\(alpha=0\)"),
        (lambda: oort(preferred_seconds=-1), r"preferred_seconds > 0"),
        (
            lambda: selective(models.fedmf(9), rooms.pointwise(), clients=3, candidates=2),
            r"selective\(candidates=2\) is too small; use candidates >= 3",
        ),
        (lambda: oort(explore=2), r"oort\(explore=2\) is no fraction"),
    ):
        with pytest.raises(ValueError, match=match):
            make()
