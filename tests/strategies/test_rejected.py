"""Clients whose round is not finite, and those who are not there: neither leaves a trace."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import fast
from pulling import KEY, MODEL, USERS, close, pulling, run, same, store

from fedjax_rec import aggregate, compress, rows, simulate, strategies, trees
from fedjax_rec.rounds.rejected import finite
from fedjax_rec.types import Client, Cohort, Stage, Upload

# What of whom is not finite: rows, a dense leaf, what is kept, the loss.
SPOILED = {3: "rows", 6: "bias", 9: "private", 12: "loss"}
# In chunks of 4, the last of which is filled up; the last client is not there.
THERE = [0, 3, 1, 6, 9, 2, 12, 4, 5, 7, 8, 10, 11]


def spoiled(client: Client, who=SPOILED) -> Client:
    """`client`, of which those in `who` who have data make NaN or infinity of something."""

    def update(key, private, shared, data, now):
        private, upload = client.update(key, private, shared, data, now)
        of = lambda what: jnp.int32([k for k, w in who.items() if w == what])
        mine = lambda what: jnp.isin(data.id, of(what)) & (data.length > 0)
        item, bias = upload.update["item"], upload.update["bias"]
        values = jnp.where(mine("rows") & (jnp.arange(item.values.size) == 7)
                           .reshape(item.values.shape), jnp.nan, item.values)  # fmt: skip
        bias = jnp.where(mine("bias"), bias.at[1].set(jnp.inf), bias)
        loss = jnp.where(mine("loss"), jnp.nan, upload.metrics["loss"])
        change = {**upload.update, "item": replace(item, values=values), "bias": bias}
        metrics = {**upload.metrics, "loss": loss}
        kept = jnp.where(mine("private"), -jnp.inf, private)
        return kept, replace(upload, update=change, metrics=metrics)

    return Client(client.init, update)


def without(data, gone):
    """`data` of which the clients `gone` have nothing."""
    return replace(data, length=data.length.at[jnp.int32(list(gone))].set(0))


def moments() -> Stage:
    """A stage with memory that counts the uploads of a client."""
    send = lambda key, memory, upload, now: (memory + 1.0, upload)
    return Stage(send, lambda update: jnp.zeros(()))


ENGINES = {
    "whole tables": lambda client: strategies.federated(client, MODEL, clients_per_chunk=4),
    "error feedback and a stage": lambda client: strategies.federated(
        client, MODEL, compress.error_feedback(compress.scaled_sign()), clients_per_chunk=4,
        stages=[moments()],
    ),
    "two trips": lambda client: strategies.power_sgd(client, MODEL, 1),
    "no server": lambda client: strategies.decentralized(
        client, MODEL, strategies.average(), clients_per_chunk=4
    ),
    "a graph": lambda client: strategies.graph_guided(
        guided(client), MODEL, clients_per_chunk=4
    ),
}  # fmt: skip


def guided(client: Client) -> Client:
    """`client` on {"model": ..., "target": ...}, of which it does not look at the target."""

    def update(key, private, shared, data, now):
        private, upload = client.update(key, private, shared["model"], data, now)
        return private, replace(upload, update={"model": upload.update})

    return Client(client.init, update)


@pytest.mark.parametrize("name", ENGINES)
def test_a_round_is_that_of_those_who_are_sound(name):
    """Two rounds: the state is that where the others have no data, whatever they hold."""
    strategy = ENGINES[name](spoiled(pulling(whole=name == "whole tables")))
    state, infos = run(strategy, store(), [THERE, THERE])
    want, asked = run(strategy, without(store(), SPOILED), [THERE, THERE])
    for info, right in zip(infos, asked, strict=True):
        told = np.isin(THERE, list(SPOILED)).astype(float)
        np.testing.assert_array_equal(info.rejected, told)
        assert not np.asarray(right.rejected).any()
        np.testing.assert_array_equal(info.weight, right.weight)
        assert np.isfinite(np.asarray(info.metrics["loss"])).all()
        mine = np.asarray(info.metrics["loss"])
        np.testing.assert_allclose(mine[told == 0], np.asarray(right.metrics["loss"])[told == 0])
    close(state, want)
    before = strategy.init(KEY, USERS)
    for kept in ("private", "memory"):
        slices = lambda tree: jax.tree.map(lambda x: x[jnp.int32(list(SPOILED))], tree)
        same(slices(getattr(state, kept)), slices(getattr(before, kept)))


def test_who_has_no_data_is_billed_nothing_and_who_is_named_twice_is_refused():
    """Neither the dense leaves nor a header, both ways, with a broadcast or without."""
    data = without(store(), [2, 5])
    for more in ({}, {"downlink": compress.identity()}):
        strategy = strategies.federated(pulling(), MODEL, clients_per_chunk=4, **more)
        _, infos = run(strategy, data, [THERE, THERE])
        for info in infos:
            for bytes in (info.bytes_up, info.bytes_down):
                np.testing.assert_array_equal(np.asarray(bytes) > 0, ~np.isin(THERE, [2, 5]))
    state = strategy.init(KEY, USERS)
    with pytest.raises(ValueError, match=r"client 3 is named 2 times.*name each client once"):
        strategy.round(KEY, state, Cohort(jnp.int32([3, USERS, 3, USERS]), data))


def test_what_is_in_flight_holds_nothing_of_the_rejected():
    clock = strategies.lognormal_clock(speed=10.0)
    strategy = strategies.asynchronous(spoiled(pulling()), MODEL, clock, concurrency=8)
    before = strategy.init(KEY, USERS)
    state, infos = run(strategy, store(), [THERE[:4], THERE[4:8], THERE[8:12], [0, 1, 2, 4]])
    assert sum(float(i.rejected.sum()) for i in infos) == len(SPOILED)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((state.shared, state.private)))
    assert not np.allclose(state.shared["bias"], before.shared["bias"])
    assert float(state.private[jnp.int32(list(SPOILED))].sum()) == 0


def test_whoever_is_not_there_may_hold_anything():
    """The last client's state is what padding is given: NaN of it reaches nobody."""
    strategy = strategies.federated(pulling(), MODEL, clients_per_chunk=4)
    begun = strategy.init(KEY, USERS)
    poisoned = replace(begun, private=begun.private.at[USERS - 1].set(jnp.nan))
    (state, infos), (want, _) = (run(strategy, store(), [THERE], s) for s in (poisoned, begun))
    same(state.shared, want.shared)
    assert np.isnan(state.private[USERS - 1]) and not np.asarray(infos[0].rejected).any()


@pytest.mark.parametrize("make", [aggregate.mean, aggregate.uniform, aggregate.per_row,
                                  aggregate.total, aggregate.normalized])  # fmt: skip
@pytest.mark.parametrize("ids", [False, True])
def test_no_sum_looks_at_what_weighs_nothing(make, ids):
    rng = np.random.default_rng(0)
    live, where = jnp.ones((3, 4), bool), jnp.int32([[0, 2, 3, 6]] * 3)
    values = jnp.asarray(rng.normal(size=(3, 4 if ids else 8, 300)), jnp.float32)
    live = live if ids else jnp.ones((3, 8), bool)
    table = rows.RowsUpdate(values, where if ids else None, live, None, 8)
    update = {"item": table, "wide": values[:, :4], "bias": values[:, 0, 0]}
    weight, steps = jnp.float32([2.0, 0.0, 1.0]), jnp.float32([1.0, jnp.nan, 3.0])
    spoil = lambda x: x.at[1].set(jnp.nan) if jnp.issubdtype(x.dtype, jnp.floating) else x
    ends = []
    for tree in (update, jax.tree.map(spoil, update)):
        a = make()
        uploads = Upload(tree, weight, {}, {"steps": steps})
        ends.append(rows.to_dense(a.finish(KEY, (), a.reduce((), uploads, None), None)[1]))
    same(*ends)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(ends))


def test_all_floats_are_finite_or_not():
    big = np.full((4, 3000), 3e38, np.float32)
    big[1, 7], big[2, 2999] = np.nan, -np.inf
    tree = {"a": jnp.asarray(big), "ids": jnp.zeros((4, 2), jnp.int32), "b": jnp.ones(4)}
    assert finite(tree, 4).tolist() == [True, False, False, True]
    assert finite(trees.scale(tree["b"], jnp.float32([1, 1, 1, jnp.nan])), 4).tolist() == [
        True, True, True, False,
    ]  # fmt: skip


def simulated(strategy, **kwargs):
    with fast():
        return list(simulate.simulate(strategy, store(), 3, KEY, **kwargs))


def test_a_run_goes_on_and_names_who_was_rejected():
    strategy = strategies.federated(spoiled(pulling()), MODEL)
    *_, last = simulated(strategy, every=3, most_rejected=0.3)
    assert last.rejected == {at: list(SPOILED) for at in (1, 2, 3)}
    assert last.metrics["rejected"] == 12 and last.metrics["clients"] == USERS - 4
    assert np.isfinite(last.metrics["loss"])


def test_a_run_ends_where_more_are_rejected_than_it_allows():
    strategy = strategies.federated(spoiled(pulling()), MODEL)
    message = (
        r"^round 1: what 4 of 15 clients made is not finite \(3, 6, 9, 12\).*most_rejected=0.2"
    )
    with pytest.raises(simulate.Diverged, match=message):
        simulated(strategy, most_rejected=0.2)
    with pytest.raises(ValueError, match="most_rejected=2"):
        simulated(strategy, most_rejected=2)
