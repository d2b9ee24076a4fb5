"""What happens between a client and the sum: stages, what is billed, verdicts, late decoding."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pulling import ITEMS, KEY, MODEL, USERS, pulling, run, same, store

from fedjax_rec import aggregate, clients, compress, models, rows, strategies, wire
from fedjax_rec import data as rooms
from fedjax_rec.types import Aggregator, Cohort, Stage

COHORT = [3, 7, USERS, 1, 12, 9]


@pytest.fixture(scope="module")
def data():
    return store()


def of(ids, data) -> Cohort:
    return Cohort(jnp.int32(ids), data)


def federated(**kwargs):
    return strategies.federated(pulling(whole=True), MODEL, clients_per_chunk=2, **kwargs)


def masked() -> Stage:
    """Pairwise masks, as of secure aggregation: client k adds +r(k, j) for j > k, -r(j, k) else."""

    def send(key, memory, upload, now):
        there = now.cohort < USERS

        def one(j, real):
            low, high = jnp.minimum(now.client, j), jnp.maximum(now.client, j)
            pair = jax.random.fold_in(jax.random.fold_in(jax.random.key(5), low), high)
            sign = jnp.sign(j - now.client) * real
            return sign * jax.random.normal(pair, (ITEMS, 2))

        mask = jax.vmap(one)(now.cohort, there).sum(0)
        item = upload.update["item"]
        # All that are there weigh one, so that masks of a pair cancel in the mean.
        hidden = replace(item, values=item.values + mask, live=jnp.ones(ITEMS, bool))
        return memory, replace(upload, update={**upload.update, "item": hidden})

    return Stage(send)


def test_pairwise_masks_cancel_in_the_sum_and_hide_each_upload(data):
    uniform = aggregate.uniform()
    plain, _ = run(federated(aggregator=uniform), data, [COHORT])
    hidden = federated(aggregator=uniform, stages=[masked()])
    state, _ = run(hidden, data, [COHORT])
    np.testing.assert_allclose(
        state.shared["item"].values, plain.shared["item"].values, rtol=1e-4, atol=1e-5
    )
    cohort = of(COHORT, data)
    packets = [s.packets(KEY, s.init(KEY, USERS), cohort)[0] for s in (federated(), hidden)]
    open_, shut = (np.asarray(p.body["item"].values) for p in packets)
    real = [i for i, k in enumerate(COHORT) if k < USERS]
    assert np.abs(open_ - shut)[real].mean() > 1


def test_stages_come_in_their_order_with_keys_memory_and_a_last_word(data):
    def adding(number, name):
        def send(key, memory, upload, now):
            drawn = jax.random.uniform(key)
            update = {**upload.update, "bias": upload.update["bias"] * number + number}
            metrics = {**upload.metrics, name: drawn, f"{name} times": memory}
            return memory + 1, replace(upload, update=update, metrics=metrics)

        def receive(key, update, now):
            return {**update, "bias": update["bias"] + 100 * number}

        return Stage(send, lambda update: jnp.float32(0), receive)

    strategy = federated(stages=[adding(2.0, "a"), adding(3.0, "b")])
    plain, (before, *_) = run(federated(), data, [COHORT])
    state, (info, again) = run(strategy, data, [COHORT, [*COHORT[:3], 5, 2, 0]])
    moved = np.asarray(plain.shared["bias"]) - 1
    once, _ = run(strategy, data, [COHORT])
    np.testing.assert_allclose(once.shared["bias"], 1 + (moved * 2 + 2) * 3 + 3 + 500, rtol=1e-5)
    a, b = (np.asarray(info.metrics[name])[[0, 1, 3, 4, 5]] for name in "ab")
    assert len({*a.tolist(), *b.tolist()}) == 10
    # Memory is of each client and of each stage, and waits where the client is away.
    np.testing.assert_array_equal(again.metrics["a times"], [1, 1, 0, 0, 0, 0])
    kept = np.asarray(state.memory["stages"][1])
    assert kept[3] == kept[7] == 2 and kept[1] == kept[5] == 1 and kept[4] == 0
    np.testing.assert_array_equal(info.bytes_up, before.bytes_up)


def test_stages_and_a_compressor_compose(data):
    halved = Stage(
        lambda key, memory, upload, now: (
            memory,
            replace(upload, update=rows.scale(upload.update, 0.5)),
        )
    )
    both = federated(stages=[halved], uplink=compress.error_feedback(compress.top_k(0.3)))
    state, (info,) = run(both, data, [COHORT])
    assert set(state.memory) == {"stages", "uplink"}
    plain = federated(uplink=compress.error_feedback(compress.top_k(0.3)))
    other, (bare,) = run(plain, data, [COHORT])
    start = MODEL.init(KEY)[0]
    np.testing.assert_allclose(
        state.shared["item"].values - start["item"].values,
        0.5 * (other.shared["item"].values - start["item"].values),
        atol=1e-6,
    )
    np.testing.assert_array_equal(info.bytes_up, bare.bytes_up)


def test_what_is_sent_beside_the_update_is_billed_to_the_byte(data):
    told = clients.reporting(pulling(), ["steps"])
    strategy = strategies.federated(told, MODEL, clients_per_chunk=2)
    _, (info,) = run(strategy, data, [COHORT])
    _, (plain,) = run(strategies.federated(pulling(), MODEL, clients_per_chunk=2), data, [COHORT])
    state, cohort = strategy.init(KEY, USERS), of(COHORT, data)
    packets, ledger = strategy.packets(KEY, state, cohort)
    for i, k in enumerate(COHORT):
        if k < USERS:
            sent = wire.to_bytes(jax.tree.map(lambda x, i=i: np.asarray(x)[i], packets))
            assert len(sent) == int(ledger[i]) == int(info.bytes_up[i]) > int(plain.bytes_up[i])
    with pytest.raises(ValueError, match=r"has no metric 'step' \(did you mean 'steps'\?\)"):
        run(strategies.federated(clients.reporting(pulling(), ["step"]), MODEL), data, [COHORT])


def nearest(reject: int) -> Aggregator:
    """The mean of all but the `reject` uploads that are farthest from the median, with verdicts."""

    def reduce(state, uploads, now):
        return {"update": uploads.update, "weight": uploads.weight}

    def finish(key, state, summary, now):
        there = summary["weight"] > 0
        flat = jnp.concatenate(
            [x.values.reshape(x.live.shape[0], -1) if rows.is_table(x) else
             x.reshape(x.shape[0], -1)
             for x in jax.tree.leaves(summary["update"], is_leaf=rows.is_table)], 1
        )  # fmt: skip
        middle = jnp.nanmedian(jnp.where(there[:, None], flat, jnp.nan), 0)
        far = jnp.where(there, jnp.abs(flat - middle).sum(1), -1.0)
        verdicts = there & (jnp.argsort(jnp.argsort(-far)) >= reject)
        weights = verdicts / jnp.maximum(verdicts.sum(), 1)
        update = rows.weighted_sum(weights, summary["update"])
        return state, update, verdicts.astype(jnp.float32)

    return Aggregator(lambda shared: (), reduce, finish, additive=False)


def slices(tree, ids):
    return jax.tree.map(lambda x: np.asarray(x)[np.array(ids)], tree)


@pytest.fixture(scope="module")
def world():
    found = rooms.synthetic(num_users=8, num_items=12, interactions_per_user=6)
    return rooms.pack(rooms.leave_one_out()(found), evaluation_negatives=0)


@pytest.mark.parametrize("name", ["scaffold", "feddyn", "fedavg"])
def test_a_robust_rule_goes_with_every_strategy_and_the_rejected_keep_all(name, world):
    """Private state, error memory and the server's sums follow the verdict."""
    model = models.fedmf(world.num_items, width=3, scale=0.5)
    made = getattr(strategies, name)(
        model, rooms.pointwise(2), optimizer=clients.sgd(0.5), batch_size=8, clients_per_chunk=3,
        aggregator=nearest(2), uplink=compress.error_feedback(compress.top_k(0.5)),
    )  # fmt: skip
    begin, cohort = made.init(KEY, 8), of([4, 8, 1, 6, 0, 3, 7], world.store)
    state, info = jax.jit(
        made.round, compiler_options={"xla_backend_optimization_level": 0}
    )(KEY, begin, cohort)  # fmt: skip
    verdicts = np.asarray(info.verdicts)
    assert verdicts.tolist().count(1.0) == 4 and verdicts[1] == 0
    ids = np.asarray(cohort.ids)
    out = [k for k, v in zip(ids, verdicts, strict=True) if k < 8 and not v]
    taken = [k for k, v in zip(ids, verdicts, strict=True) if v]
    for before, after in ((begin.private, state.private), (begin.memory, state.memory)):
        same(slices(before, out), slices(after, out))
        moved = zip(*map(jax.tree.leaves, (slices(x, taken) for x in (before, after))), strict=True)
        assert any((a != b).any() for a, b in moved)
    if name == "scaffold":
        # c = mean_k c_k, with those that were rejected as they were.
        own = np.asarray(state.private["control"]["item"].values).mean(0)
        assert np.abs(own).max() > 0


def test_what_decodes_linearly_is_decoded_after_the_sum(world):
    model = models.fedmf(world.num_items, width=6, scale=0.5)
    low_rank = compress.seeded_low_rank(2)
    assert low_rank.linear
    found = []
    for uplink in (low_rank, replace(low_rank, linear=False)):
        made = strategies.fedavg(
            model, rooms.pointwise(2), optimizer=clients.sgd(0.5), batch_size=8,
            clients_per_chunk=3, uplink=uplink, aggregator=aggregate.per_row(),
        )  # fmt: skip
        cohort = of(range(8), world.store)
        step = jax.jit(made.round, compiler_options={"xla_backend_optimization_level": 0})
        found.append(step(KEY, made.init(KEY, 8), cohort))
    (late, a), (early, b) = found
    np.testing.assert_allclose(
        late.shared["item"].values, early.shared["item"].values, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_array_equal(a.bytes_up, b.bytes_up)


def test_no_stages_may_be_said_as_null(data):
    """As a configuration has it: `--strategy.stages null`."""
    plain, _ = run(federated(), data, [COHORT])
    state, _ = run(federated(stages=None), data, [COHORT])
    same(state.shared, plain.shared)
