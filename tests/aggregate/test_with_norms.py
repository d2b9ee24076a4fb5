"""Quantiles of the norms of uploads against NumPy: rows and dense leaves, chunks, who is not there,
whom the round rejects, and forgeries."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from robust_world import CLIENTS, LIARS, flat, made, uploads

from fedjax_rec import aggregate, attacks, data, models, privacy, rows, simulate, strategies, trees
from fedjax_rec.aggregate.with_norms import quantiles
from fedjax_rec.types import Cohort, Stage

pytestmark = pytest.mark.usefixtures("compiled_fast")
SHARES = [0, 0.1, 0.5, 0.9, 1]
KEYS = [f"upload_norm_{name}" for name in ("min", "p10", "p50", "p90", "max")]


def told(state) -> np.ndarray:
    found = trees.told(state)
    return np.array([found[key] for key in KEYS])


@pytest.mark.parametrize("layout", ["whole", "ids"])
@pytest.mark.parametrize("rule", [aggregate.total(), aggregate.multi_krum(f=2)], ids=str)
def test_norms_are_numpys_of_those_who_weigh_something_and_the_rule_stays_itself(rule, layout):
    came = uploads(layout)
    state, update, verdicts = made(aggregate.with_norms(rule), came)
    wanted = np.quantile(np.linalg.norm(flat(came)[0], axis=1), SHARES)
    np.testing.assert_allclose(told(state), wanted, rtol=1e-5)
    _, plain, judged = made(rule, came)
    np.testing.assert_allclose(update, plain, rtol=1e-6)
    np.testing.assert_array_equal(verdicts, judged)


def test_nobody_has_no_norms_and_one_has_all_of_them():
    came = uploads("whole")
    nobody = replace(came, weight=jnp.zeros(CLIENTS))
    one = replace(came, weight=jnp.zeros(CLIENTS).at[2].set(1.0))
    rule = aggregate.with_norms(aggregate.uniform())
    assert np.isnan(told(made(rule, nobody)[0])).all()
    np.testing.assert_allclose(told(made(rule, one)[0]), np.linalg.norm(flat(one)[0]), rtol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 11])
def test_quantiles_are_numpys_whatever_the_others_hold(count):
    rng = np.random.default_rng(count)
    norm, there = rng.exponential(size=17), np.zeros(17, bool)
    there[rng.permutation(17)[:count]] = True
    found = quantiles(jnp.float32(np.where(there, norm, np.nan)), jnp.asarray(there), SHARES)
    np.testing.assert_allclose(found, np.quantile(norm[there], SHARES), rtol=1e-6)


def test_inside_an_attack_they_are_those_of_the_forgery():
    came = uploads("ids")
    rule = aggregate.with_norms(aggregate.total())
    malicious = attacks.named(LIARS)
    forge = lambda rule: attacks.attacked(rule, attacks.ipm(100.0), malicious)
    inside, outside = (
        made(x, came)[0] for x in (forge(rule), aggregate.with_norms(forge(rule.of)))
    )
    assert told(inside)[-1] > 5 * told(outside)[-1] > 0


def test_a_seal_leaves_nothing_to_look_at():
    sealed = privacy.secure_aggregation(8.0, clients=6)
    with pytest.raises(ValueError, match="the server reads the sum alone"):
        aggregate.with_norms(sealed)


def spoiled(who: int) -> Stage:
    """One client sends NaN."""

    def send(key, memory, upload, now):
        change = lambda x: jnp.where(now.client == who, jnp.nan, x) if x.dtype == jnp.float32 else x
        return memory, replace(upload, update=jax.tree.map(change, upload.update))

    return Stage(send)


USERS, REJECTED, KEY = 20, 3, jax.random.key(0)


@pytest.fixture(scope="module")
def store():
    split = data.leave_one_out()(data.synthetic(USERS, 60, 4))
    return data.pack(split, evaluation_negatives=0).store


def strategy_of(rule, chunk=None):
    """FedMF of 60 items, of whose clients one sends NaN."""
    return strategies.fedmf(
        models.fedmf(60, width=4), data.pointwise(1), aggregator=rule, clients_per_chunk=chunk,
        stages=[spoiled(REJECTED)],
    )  # fmt: skip


def by_numpy(update, there) -> np.ndarray:
    """The norm of each client's upload, all rows that it touched and all dense leaves."""
    squares = np.zeros(len(there))
    for x in rows.nodes(update):
        if rows.is_table(x):
            values = np.where(np.asarray(x.live)[..., None], np.asarray(x.values, float), 0)
            squares += (values**2).sum((1, 2))
        else:
            squares += (np.asarray(x, float) ** 2).reshape(len(there), -1).sum(1)
    return np.sqrt(squares)[there]


@pytest.mark.parametrize("chunk", [USERS, 3])
def test_a_round_tells_those_of_who_is_there_and_not_rejected(store, chunk):
    ids = jnp.arange(USERS, dtype=jnp.int32).at[7].set(USERS)  # the place of 7 is empty
    cohort = Cohort(ids, store)
    strategy = strategy_of(aggregate.with_norms(aggregate.total()), chunk)
    begun = strategy.init(KEY, USERS)
    there = ~np.isin(np.arange(USERS), [REJECTED, 7])
    norms = by_numpy(strategy.uploads(KEY, begun, cohort), there)
    state, info = jax.jit(strategy.round)(KEY, begun, cohort)
    np.testing.assert_allclose(told(state.server), np.quantile(norms, SHARES), rtol=1e-5)
    assert norms.size == 18 and norms.min() < 0.9 * norms.max()
    assert info.verdicts is None


def test_a_run_tells_them_and_the_share_of_the_rejected_and_nothing_of_a_round_of_nobody(store):
    draw = lambda key, round, n: jnp.where(round == 1, n, jnp.arange(6))
    cohorts = simulate.Cohorts(lambda n: 6, draw)
    rule = aggregate.with_norms(aggregate.total())
    steps = simulate.simulate(strategy_of(rule), store, 2, KEY, cohorts, most_rejected=0.5)
    first, second = (step.metrics for step in steps)
    assert sorted(first[key] for key in KEYS) == [first[key] for key in KEYS]
    assert first[KEYS[0]] > 0 and np.isnan([second[key] for key in KEYS]).all()
    assert (first["rejected"], first["rejected_share"]) == (1, pytest.approx(1 / 6))
    assert (second["rejected"], second["rejected_share"]) == (0, 0)
