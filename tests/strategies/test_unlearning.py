"""Runs without some clients against runs on data that never had them; logs and what is sent again
against NumPy, and against the training that is repeated."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import fast
from pulling import ITEMS, KEY, MODEL, USERS, change_of, pulling, run, store

from fedjax_rec import clients, data, keys, models, simulate, strategies, testing, unlearn
from fedjax_rec.types import Cohort
from fedjax_rec.unlearn.log import logs

pytestmark = pytest.mark.usefixtures("compiled_fast")
ROUNDS, GONE = 3, [3, 11]
STAY = [k for k in range(USERS) if k not in GONE]
same = partial(jax.tree.map, np.testing.assert_array_equal)
close = partial(jax.tree.map, partial(np.testing.assert_allclose, rtol=1e-3, atol=2e-5))


def ended(strategy, store, cohorts=None, state=None, rounds=ROUNDS):
    """The state after a run."""
    with fast():
        steps = simulate.simulate(strategy, store, rounds, KEY, cohorts, every=rounds, state=state)
        *_, last = steps
    return last.state


def pulled(stage=None):
    stages = [] if stage is None else [stage]
    return strategies.federated(pulling(), MODEL, stages=stages)


@pytest.fixture(scope="module")
def world():
    return store()


@pytest.fixture(scope="module")
def films():
    made = data.leave_one_out()(data.synthetic(USERS, ITEMS, interactions_per_user=7))
    return data.pack(made, evaluation_negatives=0).store


def fedmf(stages=()):
    model = models.fedmf(ITEMS, width=4)
    rates = {"user_learning_rate": 5.0, "item_learning_rate": 5.0}
    return strategies.fedmf(model, data.pointwise(2), batch_size=8, stages=stages, **rates)


def test_a_run_without_clients_is_that_of_data_that_never_had_them(films):
    length = np.array(films.length)
    length[GONE] = 0
    never = ended(fedmf(), replace(films, length=jnp.asarray(length)))
    mine = ended(fedmf(), films, simulate.without(simulate.full(), GONE))
    same(mine.shared, never.shared)
    at = partial(jax.tree.map, lambda x: np.asarray(x)[STAY])
    same(at(mine.private), at(never.private))
    other = ended(fedmf(), films).shared["item"].values
    assert (np.asarray(other) != np.asarray(mine.shared["item"].values)).any()


def test_a_state_before_they_took_part_is_one_to_go_on_from(world):
    """To the bits of a run without them from the start."""
    draws, gone = simulate.uniform(2), [7]
    began = unlearn.first_round(draws, KEY, gone, USERS, 20)
    for done in range(20):
        of_cohort = jax.random.fold_in(keys.stream(KEY, "cohort"), done)
        if np.isin(gone, draws.draw(of_cohort, done, USERS)).any():
            break
    assert began == done > 0
    assert unlearn.first_round(simulate.fixed([1]), KEY, gone, USERS, 5) is None
    before = ended(pulled(), world, draws, rounds=began)
    less = simulate.without(draws, gone)
    mine = ended(pulled(), world, less, before, began + 2)
    same(mine, ended(pulled(), world, less, rounds=began + 2))


def test_a_log_keeps_the_longest_rows_and_all_else(world):
    cohort = [4, 9, 2]
    plain, _ = run(pulled(), world, [cohort])
    state, _ = run(pulled(unlearn.update_log(2, rows=4)), world, [cohort])
    same(state.shared, plain.shared)
    (log,) = logs(state.memory)
    item, bias = np.asarray(MODEL.init(KEY)[0]["item"].values), np.ones(3)
    for k in cohort:
        ids, change, of_bias = change_of(k, item, bias)
        best = ids[np.argsort(-np.linalg.norm(change, axis=1))[:4]]
        kept = log.sent["item"]
        assert set(np.asarray(kept.ids[k, 0]).tolist()) == set(best.tolist())
        for id, row in zip(np.asarray(kept.ids[k, 0]), np.asarray(kept.values[k, 0]), strict=True):
            np.testing.assert_allclose(row, change[ids == id][0], atol=1e-6)
        np.testing.assert_allclose(log.sent["bias"][k, 0], of_bias, atol=1e-6)
    assert (np.asarray(log.weight[:, 0]) > 0).nonzero()[0].tolist() == sorted(cohort)
    assert not np.asarray(log.weight[:, 1]).any()
    taken = np.zeros(USERS, int)
    taken[cohort] = 4 * (4 + 2 * 4) + 3 * 4
    assert unlearn.logged_bytes(state.memory).tolist() == taken.tolist()


def test_with_all_that_there_was_it_is_the_training_that_it_repeats(films):
    trained, again = (
        ended(fedmf([unlearn.update_log(ROUNDS)]), films),
        fedmf([unlearn.replay(ROUNDS)]),
    )
    first = simulate.program(lambda _: simulate.Parts(again)).of(KEY).start(films)
    begun = np.array(first.shared["item"].values)
    mine = ended(again, films, state=unlearn.rolled_back(first, trained))
    close(mine.shared, trained.shared)
    close(mine.private, trained.private)
    assert np.abs(begun - np.asarray(mine.shared["item"].values)).max() > 0.1


def test_rows_are_as_long_as_they_were_and_lie_as_they_are_trained_now(world):
    """One round from another model, against NumPy; a client without a log sends what it made."""
    state, _ = run(pulled(unlearn.update_log(2, rows=4)), world, [[4, 9]])
    again = pulled(unlearn.replay(2, rows=4))
    begun = MODEL.init(KEY)[0]
    item, bias = np.asarray(begun["item"].values, np.float64), np.ones(3)
    other = {**begun, "item": replace(begun["item"], values=-2 * begun["item"].values)}
    first = unlearn.rolled_back(again.init(KEY, USERS), state)
    after, _ = run(again, world, [[4, 2]], replace(first, shared=other))
    total, weights = {"item": np.zeros_like(item), "bias": np.zeros(3)}, 0
    for k in (4, 2):
        n = 2 + 5 * k % 7
        ids, fresh, of_bias = change_of(k, -2 * item, bias)
        if k == 4:
            _, long, _ = change_of(k, item, bias)
            best = np.argsort(-np.linalg.norm(long, axis=1))[:4]  # others as they are trained now
            size = np.linalg.norm(fresh[best], axis=1, keepdims=True)
            fresh[best] *= np.linalg.norm(long[best], axis=1, keepdims=True) / size
        total["item"][ids] += n * fresh
        total["bias"] += n * of_bias
        weights += n
    got = np.asarray(after.shared["item"].values) + 2 * item
    np.testing.assert_allclose(got, total["item"] / weights, atol=2e-6)
    np.testing.assert_allclose(after.shared["bias"] - 1, total["bias"] / weights, atol=2e-6)


@pytest.mark.parametrize("make", [unlearn.update_log, unlearn.replay])
def test_they_keep_the_laws_of_a_stage(make):
    stage = make(3, 4)

    def bare(key, memory, upload, now):  # the laws' clients tell their steps as well
        memory, sent = stage.send(key, memory, replace(upload, aux={}), now)
        return memory, replace(sent, aux=upload.aux)

    testing.check_stage(replace(stage, send=bare))


def test_what_is_refused(world):
    told = strategies.federated(
        clients.reporting(pulling(), ["steps"]), MODEL, stages=[unlearn.update_log(2)]
    )
    state = jax.eval_shape(lambda: told.init(KEY, USERS))
    cohort = Cohort(jax.ShapeDtypeStruct((4,), jnp.int32), world)
    with pytest.raises(ValueError, match="clients send 'steps' beside their update, which is not"):
        jax.eval_shape(told.round, KEY, state, cohort)
    for make in (unlearn.update_log, unlearn.replay):
        for given, line in (((0,), "rounds=0"), ((1, 0), "rows=0")):
            with pytest.raises(ValueError, match=line):
                make(*given)
    a, b = (
        jax.eval_shape(lambda s=s: s.init(KEY, 2)) for s in (pulled(), pulled(unlearn.replay(2)))
    )
    with pytest.raises(ValueError, match="rounds and rows of update_log"):
        unlearn.rolled_back(a, b)
    with pytest.raises(ValueError, match="clients keep no log"):
        unlearn.logged_bytes(())
    for ids, line in (([1, 1], "twice"), ([14], r"outside 0\.\.13"), (range(14), "leave somebody")):
        with pytest.raises(ValueError, match=line):
            simulate.without(simulate.full(), ids).size(14)
