"""Stages in every engine: a clip is what NumPy makes of it, what a stage remembers waits for who is
away, and who is held back is not there."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import fast
from pulling import ITEMS, KEY, MODEL, USERS, change_of, pulling, run, same, store

from fedjax_rec import clients, data, models, rows, simulate, strategies
from fedjax_rec.rounds.clock import Clock
from fedjax_rec.rounds.trips import stage_of_trip
from fedjax_rec.types import Client, Cohort, Now, Stage, Upload

HELD, BOUND = 9, 0.8
FIRST, SECOND = [3, 7, USERS, 1, 12, HELD], [3, 5, USERS, HELD, 2, 0]
ALIKE = Clock(lambda key, ids, examples, down, up: jnp.full(ids.shape, 2.5))


def clip(bound=BOUND, held=HELD) -> Stage:
    """u min(1, bound / |u|), which counts the uploads of a client, and holds one client back."""

    def send(key, memory, upload, now):
        length = jnp.sqrt(rows.squared_norm(upload.update))
        less = rows.scale(upload.update, jnp.minimum(1, bound / length))
        weight = jnp.where(now.client == held, 0.0, upload.weight)
        return memory + 1, replace(upload, update=less, weight=weight)

    return Stage(send, lambda update: jnp.int32(0))


def guided(client: Client) -> Client:
    """`client` on {"model": ..., "target": ...}, of which it does not look at the target."""

    def update(key, private, shared, data, now):
        private, upload = client.update(key, private, shared["model"], data, now)
        return private, replace(upload, update={"model": upload.update})

    return replace(client, update=update)


ENGINES = {
    "federated": lambda client, **kw: strategies.federated(
        client, MODEL, clients_per_chunk=2, **kw
    ),
    "asynchronous": lambda client, **kw: strategies.asynchronous(
        client, MODEL, ALIKE, len(FIRST), clients_per_chunk=2, **kw
    ),
    "decentralized": lambda client, **kw: strategies.decentralized(
        client, MODEL, strategies.average(), clients_per_chunk=2, **kw
    ),
    "graph_guided": lambda client, **kw: strategies.graph_guided(
        guided(client), MODEL, clients_per_chunk=2, **kw
    ),
    "power_sgd": lambda client, **kw: strategies.power_sgd(client, MODEL, 1, **kw),
}  # fmt: skip


@functools.cache
def played(name, whole):
    """[state before, after the first cohort, after the second], their infos, the strategy."""
    client = replace(pulling(whole), unsent=lambda before, after: before)
    strategy = ENGINES[name](client, stages=[clip()])
    begin = strategy.init(KEY, USERS)
    middle, (first,) = run(strategy, store(), [FIRST], begin)
    end, (second,) = run(strategy, store(), [SECOND], middle)
    return [begin, middle, end], [first, second], strategy


def clipped(item, bias):
    """The two parts of one change times min(1, BOUND / |change|)."""
    factor = min(1.0, BOUND / np.sqrt((item**2).sum() + (bias**2).sum()))
    return factor * item, factor * bias


def spread(k, item, bias):
    """(change of the whole table, of the bias) of client k, who starts from (item, bias)."""
    ids, change, more = change_of(k, item, bias)
    table = np.zeros_like(item)
    table[ids] = change
    return table, more


def numbers(tree):
    return np.float64(tree["item"].values), np.float64(tree["bias"])


def there(cohort):
    """(clients that count, their shares by examples)."""
    ids = [k for k in cohort if k not in (HELD, USERS)]
    size = np.asarray(store().length)[ids]
    return ids, size / size.sum()


def averaged(before, cohort):
    """{what: what it should be} of the shared model, which moves by the mean of clipped changes."""
    item, bias = numbers(before.shared)
    ids, shares = there(cohort)
    parts = [clipped(*spread(k, item, bias)) for k in ids]
    mean = lambda i: sum(s * part[i] for s, part in zip(shares, parts, strict=True))
    return {"shared": (item + mean(0), bias + mean(1))}


def alone(before, cohort):
    """Every client moves its own model; the mean of those that are there is everyone's of them."""
    items, biases = numbers(before.server["models"])
    ids, shares = there(cohort)
    moved = []
    for k in ids:
        change, more = clipped(*spread(k, items[k], biases[k]))
        moved.append((items[k] + change, biases[k] + more))
    for i, stack in enumerate((items, biases)):
        stack[ids] = sum(s * m[i] for s, m in zip(shares, moved, strict=True))
    return {"models": (items, biases)}


def kept_models(before, cohort):
    """The server keeps the model of each client, as it arrives."""
    item, bias = numbers(before.shared)
    items, biases = numbers(before.server["models"])
    for k in there(cohort)[0]:
        change, more = clipped(*spread(k, item, bias))
        items[k], biases[k] = item + change, bias + more
    return {"models": (items, biases)}


def factorized(before, cohort):
    """P P^T of the mean of what the clip leaves of u_k + e_k, of rank one."""
    item, bias = numbers(before.shared)
    ids, shares = there(cohort)
    held = before.memory["errors"][1].astype(np.float64)
    q, error = np.float64(before.server["warm"][1]), np.float64(before.server["error"][1])
    matrices, biases, errors = [], [], held.copy()
    for k in ids:
        change, more = spread(k, item, bias)
        touched = (change != 0).any(1, keepdims=True)
        change, more = clipped(change + touched * held[k], more)
        matrices.append((change, touched))
        biases.append(more)
    p = sum(s * m @ q for s, (m, _) in zip(shares, matrices, strict=True)) + error @ q
    p /= np.linalg.norm(p)
    rights = [m.T @ p for m, _ in matrices]
    right = sum(s * r for s, r in zip(shares, rights, strict=True)) + error.T @ p
    for k, (m, touched), r in zip(ids, matrices, rights, strict=True):
        errors[k] = np.where(touched, m - p @ r.T, held[k])
    more = sum(s * b for s, b in zip(shares, biases, strict=True))
    return {"shared": (item + p @ right.T, bias + more), "errors": errors}


WANTED = {
    "federated": averaged, "asynchronous": averaged, "decentralized": alone,
    "graph_guided": kept_models, "power_sgd": factorized,
}  # fmt: skip


@pytest.mark.parametrize("whole", [False, True], ids=["rows", "whole"])
@pytest.mark.parametrize("name", ENGINES)
def test_a_clip_is_that_of_numpy(name, whole):
    """In two rounds, of which the second begins with what the first remembers."""
    states, _, _ = played(name, whole)
    for cohort, before, after in zip((FIRST, SECOND), states[:-1], states[1:], strict=True):
        want = WANTED[name](jax.device_get(before), cohort)
        got = {"shared": after.shared, "models": after.server.get("models")}
        for what, (item, bias) in ((k, v) for k, v in want.items() if k != "errors"):
            found = numbers(got[what])
            np.testing.assert_allclose(found[0], item, atol=2e-5)
            np.testing.assert_allclose(found[1], bias, atol=2e-5)
        if "errors" in want:
            np.testing.assert_allclose(after.memory["errors"][1], want["errors"], atol=2e-5)


@pytest.mark.parametrize("name", ENGINES)
def test_memory_waits_and_who_is_held_back_is_not_there(name):
    states, infos, strategy = played(name, False)
    counts = np.zeros(USERS, int)
    for cohort, after, info in zip((FIRST, SECOND), states[1:], infos, strict=True):
        ids, _ = there(cohort)
        counts[ids] += 1
        memory = after.memory
        memory = memory["stages"] if isinstance(memory, dict) else memory
        np.testing.assert_array_equal(memory[0], counts)
        np.testing.assert_array_equal(after.private, counts)  # as `Client.unsent` says
        weight = np.where(
            np.isin(cohort, ids), np.asarray(store().length)[np.minimum(cohort, 14)], 0
        )
        np.testing.assert_array_equal(info.weight, weight)
        paid = np.asarray(info.bytes_up) > 0
        if name == "asynchronous":  # in the order of arrival
            assert paid.sum() == len(ids)
        else:
            np.testing.assert_array_equal(paid, np.isin(cohort, ids))
        assert not np.asarray(info.rejected).any()
    if "models" in states[0].server:
        own = lambda state: jax.tree.map(lambda x: x[HELD], state.server["models"])
        same(own(states[-1]), own(states[0]))
    with fast():
        bill = simulate.audit(strategy, states[-1], store(), KEY, clients=5)
    assert bill["message"] == bill["ledger"] > 0


@pytest.mark.parametrize("name", ENGINES)
def test_a_stage_that_spoils_an_upload_costs_its_client_the_round(name):
    """What is not finite after the stages is rejected, and the memory of stages stays."""

    def send(key, memory, upload, now):
        bias = jnp.where(now.client == 7, jnp.nan, upload.update["bias"])
        return memory + 1, replace(upload, update={**upload.update, "bias": bias})

    spoiling = Stage(send, lambda update: jnp.int32(0))
    strategy = ENGINES[name](pulling(), stages=[spoiling])
    state, (info,) = run(strategy, store(), [FIRST])
    np.testing.assert_array_equal(info.rejected, np.equal(FIRST, 7))
    memory = state.memory["stages"] if isinstance(state.memory, dict) else state.memory
    assert np.flatnonzero(memory[0]).tolist() == [1, 3, HELD, 12]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((state.shared, state.private)))


def test_a_stage_that_receives_is_refused_where_nobody_sums():
    off = replace(clip(), receive=lambda key, update, now: update)
    for name in ("decentralized", "graph_guided"):
        with pytest.raises(ValueError, match=rf"^{name}\(stages\): number 1 .*only sends\.$"):
            ENGINES[name](pulling(), stages=[clip(), off])
    with pytest.raises(ValueError, match=r"^ptf_fedrec\(stages\): number 0 .*only sends\.$"):
        strategies.ptf_fedrec(models.gmf(ITEMS), data.pointwise(2), stages=[off])


def test_power_sgd_lets_a_stage_receive_what_is_applied():
    twice = lambda key, update, now: {**update, "bias": 2 * update["bias"]}
    plain = played("power_sgd", False)[0][1]
    more = ENGINES["power_sgd"](pulling(), stages=[replace(clip(), receive=twice)])
    state, _ = run(more, store(), [FIRST])
    start = numbers(MODEL.init(KEY)[0])[1]
    np.testing.assert_allclose(state.shared["bias"] - start, 2 * (plain.shared["bias"] - start),
                               rtol=1e-5)  # fmt: skip
    same(state.shared["item"], plain.shared["item"])


def test_trips_draw_for_themselves():
    """Another key and another `now.trip`; the first message of a round is trip 1."""
    seen = []

    def draw(key, memory, upload, now):
        seen.append(now.trip)
        return jax.random.uniform(key), upload

    upload = Upload({"x": jnp.ones(2)}, jnp.float32(1), {})
    now, stage = Now(jnp.int32(0), ()), Stage(draw, lambda update: jnp.float32(0))
    drawn = [s.send(KEY, 0.0, upload, now)[0] for s in (stage, stage_of_trip(stage, 1))]
    assert seen == [0, 1] and drawn[0] != drawn[1]


USERS_TOLD = 8


@functools.cache
def told():
    found = data.synthetic(num_users=USERS_TOLD, num_items=20, interactions_per_user=6)
    return data.pack(data.leave_one_out()(found), evaluation_negatives=0)


def agreeing(held) -> Stage:
    """No prediction below 0.9, counted; one client is held back."""

    def send(key, memory, upload, now):
        said = replace(upload.update, values=jnp.maximum(upload.update.values, 0.9))
        weight = jnp.where(now.client == held, 0.0, upload.weight)
        return memory + 1, replace(upload, update=said, weight=weight)

    return Stage(send, lambda update: jnp.int32(0))


def predicting(**kwargs):
    return strategies.ptf_fedrec(
        models.fedmf(20, width=2), data.pointwise(2), server_model=models.fedmf(20, width=2),
        optimizer=clients.sgd(5.0), batch_size=16, sent=4, clients_per_chunk=4,
        scored_by="server", **kwargs,
    )  # fmt: skip


def test_what_the_server_hears_went_through_the_stages():
    """It learns what they make of predictions, and is as if those they hold back were away."""
    held, staged = 2, predicting(stages=[agreeing(2)])
    everyone = jnp.arange(USERS_TOLD, dtype=jnp.int32)
    cohort = Cohort(everyone, told().store)
    with fast():
        begin = staged.init(KEY, USERS_TOLD)
        open_, _ = jax.jit(predicting().packets)(KEY, begin, cohort)
        shut, ledger = jax.jit(staged.packets)(KEY, begin, cohort)
        step = jax.jit(staged.round)
        state, info = step(KEY, begin, cohort)
        others = Cohort(everyone.at[held].set(USERS_TOLD), told().store)
        without, _ = step(KEY, begin, others)
    live, plain = np.asarray(open_.body.live), np.asarray(open_.body.values)
    assert plain[live].max() < 0.9
    np.testing.assert_array_equal(shut.body.values, np.maximum(plain, np.float32(0.9)))
    there = np.arange(USERS_TOLD) != held
    np.testing.assert_array_equal(info.bytes_up, np.where(there, ledger, 0))
    np.testing.assert_array_equal(info.bytes_down > 0, there)
    np.testing.assert_array_equal(state.memory["stages"][0], there.astype(int))
    same(state.shared["server"], without.shared["server"])

    def scores(state, k):
        mine = jax.tree.map(lambda x: x[k], state.private)
        return staged.model.score(state.shared, mine, jnp.flatnonzero(live[k]))

    rises = [scores(state, k) - scores(begin, k) for k in np.flatnonzero(there)]
    assert np.concatenate(rises).mean() > 0
