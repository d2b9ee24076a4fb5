"""Asynchronous rounds against a loop over events, against `federated`, and their laws."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pulling import (
    ITEMS,
    KEY,
    MODEL,
    USERS,
    change_of,
    close,
    pulling,
    resumes,
    run,
    same,
    start,
    store,
)

from fedjax_rec import aggregate, clients, compress, models, rows, simulate, strategies
from fedjax_rec import data as rooms
from fedjax_rec.rounds import inflight, memory
from fedjax_rec.rounds.asynchronous import asynchronous
from fedjax_rec.rounds.clock import Clock, traced_clock
from fedjax_rec.strategies import fedasync, fedbuff
from fedjax_rec.types import Aggregator, Stage

SPEED = np.random.default_rng(0).uniform(1, 20, USERS).round(3)
CLOCK = traced_clock(SPEED, np.inf, np.inf)
ALIKE = Clock(lambda key, ids, examples, down, up: jnp.full(ids.shape, 2.5))


@pytest.fixture(scope="module")
def data():
    return store()


@functools.cache
def eventful(kind, whole, held_rows):
    """Six at work; what is stale counts less, and the server takes 0.8 of a step."""
    return made(
        whole=whole,
        held=getattr(inflight, kind)(),
        held_rows=held_rows,
        staleness=inflight.polynomial(0.7),
        server=strategies.step(0.8),
    )


def made(chunk=2, concurrency=6, clock=CLOCK, whole=False, telling=False, **kwargs):
    client = pulling(whole)
    if telling:
        client = clients.reporting(client, ["steps"])
    return asynchronous(client, MODEL, clock, concurrency, clients_per_chunk=chunk, **kwargs)


def cohorts(rounds: int, size: int, seed=1):
    draw = np.random.default_rng(seed)
    return [draw.choice(USERS, size, replace=False) for _ in range(rounds)]


def events(length, drawn, infos, concurrency, weigh, kind, rate):
    """The same in NumPy, event by event: (items, bias, seconds a round, staleness a round)."""
    item, bias = (np.array(x, float) for x in (start()["item"].values, start()["bias"]))
    flight, now, version, told = [], 0.0, 0, []
    for ids, info in zip(drawn, infos, strict=True):
        # Of those who can, some may have to wait for a place: who did start is taken from there.
        began = ids[np.asarray(info.weight) > 0]
        can = [k for k in ids if k not in [f["k"] for f in flight]]
        assert set(began) <= set(can)
        assert len(began) == min(len(can), concurrency - len(flight))
        for k in began:
            rows, up, more = change_of(k, item, bias)
            model = item[rows] + up, bias + more
            sent = (rows, up, more) if kind == "changes" else (rows, *model)
            flight.append({"k": k, "at": now + length[k] / SPEED[k], "from": version, "sent": sent})
        due = len(flight) - (concurrency - len(ids)) if len(began) else len(ids)
        flight.sort(key=lambda f: f["at"])
        come, flight = flight[: max(due, 0)], flight[max(due, 0) :]
        if not come:
            told.append((0.0, 0.0))
            continue
        total = sum(length[f["k"]] for f in come)
        to_item, to_bias = np.zeros_like(item), np.zeros_like(bias)
        for f in come:
            share = weigh(version - f["from"]) * length[f["k"]] / total
            rows, up, more = f["sent"]
            if kind == "models":
                up, more = up - item[rows], more - bias
            to_item[rows] += share * up
            to_bias += share * more
        item, bias = item + rate * to_item, bias + rate * to_bias
        told.append((come[-1]["at"] - now, np.mean([version - f["from"] for f in come])))
        now, version = come[-1]["at"], version + 1
    return item, bias, told


@pytest.mark.parametrize(
    ("kind", "size", "whole", "held_rows"),
    [("changes", 3, False, 8), ("changes", 3, True, None), ("models", 1, False, None)],
)
def test_rounds_are_a_loop_over_events(data, kind, size, whole, held_rows):
    """20 rounds of which some cannot fill the places: models, seconds and staleness."""
    drawn = cohorts(20, size)
    state, infos = run(eventful(kind, whole, held_rows), data, drawn)
    weigh = lambda tau: (1 + tau) ** -0.7
    length = np.asarray(data.length)
    item, bias, told = events(length, drawn, infos, 6, weigh, kind, 0.8)
    np.testing.assert_allclose(state.shared["item"].values, item, atol=1e-5)
    np.testing.assert_allclose(state.shared["bias"], bias, atol=1e-5)
    same(state.shared["base"], start()["base"])
    for info, (seconds, old) in zip(infos, told, strict=True):
        there = np.asarray(info.weight) > 0
        np.testing.assert_allclose(
            np.asarray(info.metrics["simulated_seconds"])[there], seconds, rtol=1e-4, atol=1e-6
        )
        np.testing.assert_allclose(np.asarray(info.metrics["staleness"])[there], old, rtol=1e-5)
    assert max(old for _, old in told) > 1.5 and sum(s > 0 for s, _ in told) > 8
    assert float(state.server["clock"]) == pytest.approx(sum(s for s, _ in told), rel=1e-4)


def test_where_all_take_the_same_time_and_all_are_waited_for_it_is_federated(data):
    """With error feedback, a stateful server, and weights that staleness cannot change."""
    parts = {"uplink": compress.error_feedback(compress.cast("bfloat16"))}
    parts |= {"server": strategies.fed_avg_m(0.5)}
    drawn = cohorts(4, 5)
    a, told = run(made(concurrency=5, clock=ALIKE, **parts), data, drawn)
    b, infos = run(
        strategies.federated(pulling(), MODEL, clients_per_chunk=2, **parts), data, drawn
    )
    close((a.shared, a.private, a.memory), (b.shared, b.private, b.memory))
    close(a.server["optimizer"], b.server["optimizer"])
    for x, y in zip(told, infos, strict=True):
        same((x.bytes_down, x.weight), (y.bytes_down, y.weight))
        assert sorted(np.asarray(x.bytes_up)) == sorted(np.asarray(y.bytes_up))
        np.testing.assert_allclose(x.metrics["simulated_seconds"], 2.5)
        assert not np.asarray(x.metrics["staleness"]).any()


def test_chunks_order_and_padding_change_nothing(data):
    drawn = cohorts(6, 4)
    order = np.array([2, 0, 3, 1])
    padded = [np.append(ids[order], USERS) for ids in drawn]
    # Five places a cohort: two uploads arrive a round more than of four, so pad both.
    a, infos = run(made(2, 9), data, [np.append(ids, USERS) for ids in drawn])
    b, others = run(made(5, 9), data, padded)
    close((a.shared, a.private), (b.shared, b.private))
    same({**a.server["flight"], "held": ()}, {**b.server["flight"], "held": ()})
    close(a.server["flight"]["held"], b.server["flight"]["held"])
    for x, y in zip(infos, others, strict=True):
        same(x.bytes_up, y.bytes_up)
        np.testing.assert_allclose(np.asarray(x.weight)[order], np.asarray(y.weight)[:4])
        for name, values in y.metrics.items():
            mine = np.asarray(x.metrics[name])
            np.testing.assert_allclose(mine[order], np.asarray(values)[:4], rtol=1e-4, atol=1e-6)
            if name != "seen":
                assert not np.asarray(values)[4].any()
        assert np.isnan(np.asarray(y.metrics["seen"])[4]).all()


def test_who_does_not_start_is_not_touched_and_bytes_are_counted_once(data):
    strategy, drawn = eventful("changes", False, 8), cohorts(10, 3)
    begin = strategy.init(KEY, USERS)
    state, infos = run(strategy, data, drawn, begin)
    began = np.concatenate(
        [ids[np.asarray(i.weight) > 0] for ids, i in zip(drawn, infos, strict=True)]
    )
    counted = np.bincount(began, minlength=USERS)
    np.testing.assert_array_equal(state.private, counted)
    assert (counted == 0).any() and (counted > 1).any()
    flying = np.asarray(state.server["flight"]["ids"]) < USERS
    plain = strategies.federated(pulling(), MODEL)
    _, (one,) = run(plain, data, [np.arange(USERS)])
    sent = sum(int(np.asarray(i.bytes_up).sum()) for i in infos)
    waiting = int(np.asarray(state.server["flight"]["bytes"])[flying].sum())
    assert sent + waiting == (np.asarray(one.bytes_up) * counted).sum() and sent and waiting
    got = sum(int(np.asarray(i.bytes_down).sum()) for i in infos)
    assert got == (np.asarray(one.bytes_down) * counted).sum()


def test_nobody_waits_for_a_cohort_that_cannot_start(data):
    """A cohort of those who are at work, and of padding: their uploads arrive. Then: nothing."""
    strategy = eventful("changes", False, 8)
    state, (info,) = run(strategy, data, [[3, 8, 5]])
    assert not np.asarray(info.bytes_up).any() and float(state.server["clock"]) == 0
    state, (info,) = run(strategy, data, [[5, 3, USERS]], state)
    assert (np.asarray(info.bytes_up) > 0).all() and not np.asarray(info.weight).any()
    took = (np.asarray(data.length) / SPEED)[[3, 8, 5]].max()
    assert float(state.server["clock"]) == pytest.approx(took, rel=1e-5)
    assert int(state.server["version"]) == 1
    after, (info,) = run(strategy, data, [[USERS] * 3], state)
    same((after.shared, after.private, after.server), (state.shared, state.private, state.server))
    assert not np.asarray(info.bytes_down).any()


def test_aggregators_see_what_arrives(data):
    """One that cannot add up over chunks, and FedNova's, which asks for steps."""

    def middle():
        zeros = rows.zero_update(start())
        reduce = lambda state, uploads, now: uploads.update["bias"]

        def finish(key, state, seen, now):
            return state, {**zeros, "bias": jnp.median(seen, axis=0)}, None

        return Aggregator(lambda shared: (), reduce, finish, additive=False)

    state, _ = run(made(3, 3, ALIKE, aggregator=middle()), data, [[2, 4, 14]])
    np.testing.assert_allclose(state.shared["bias"], 1 + (0.4 - 1) / 2, rtol=1e-5)
    nova = made(2, 3, ALIKE, telling=True, aggregator=aggregate.normalized())
    state, _ = run(nova, data, [[2, 4, 14]])
    # All took one step, so it is the mean by examples.
    n = np.asarray(data.length)[[2, 4, 14]]
    want = 1 + (n * (0.1 * np.array([2, 4, 14]) - 1) / 2).sum() / n.sum()
    np.testing.assert_allclose(state.shared["bias"], want, rtol=1e-5)


def holding(now_held) -> Stage:
    """Holds everybody back, or sends what is not finite, from the second round on."""

    def send(key, memory, upload, now):
        spoiled = rows.scale(upload.update, jnp.where(now.round > 0, jnp.nan, 1.0))
        weight = jnp.where(now.round > 0, 0.0, upload.weight)
        changes = {"weight": weight} if now_held else {"update": spoiled}
        return memory, replace(upload, **changes)

    return Stage(send)


def refusing(after: int) -> Aggregator:
    """The mean, which rejects all from the round `after` on."""
    plain = aggregate.mean()

    def reduce(state, uploads, now):
        return {"mean": plain.reduce(state, uploads, now), "weight": uploads.weight}

    def finish(key, state, seen, now):
        state, update, _ = plain.finish(key, state, seen["mean"], now)
        return state, update, jnp.where(now.round >= after, 0.0, seen["weight"])

    return Aggregator(plain.init, reduce, finish, {"mean": True, "weight": False})


@pytest.mark.parametrize(
    "parts",
    [
        {"stages": [holding(True)]},
        {"stages": [holding(False)]},
        {"aggregator": refusing(1)},
    ],
    ids=["held back", "rejected", "by verdict"],
)
def test_where_nothing_that_arrives_counts_momentum_rests(parts, data):
    """Time goes on, and the server stands as it stood."""
    strategy = made(3, 3, ALIKE, server=strategies.fed_avg_m(0.9), **parts)
    begin = strategy.init(KEY, USERS)
    before, _ = run(strategy, data, [[2, 4, 14]], begin)
    assert np.abs(before.shared["bias"] - begin.shared["bias"]).min() > 0.1
    after, _ = run(strategy, data, [[1, 3, 5]], before)
    held = lambda s: (s.shared, s.server["optimizer"], s.server["aggregator"], s.server["version"])
    same(held(after), held(before))
    assert int(before.server["version"]) == 1 and not (after.server["flight"]["ids"] < USERS).any()
    np.testing.assert_allclose(after.server["clock"], 5.0)


def test_staleness_weights():
    tau = jnp.arange(8.0)
    np.testing.assert_array_equal(inflight.constant().weight(tau), 1.0)
    np.testing.assert_allclose(inflight.polynomial(2.0).weight(tau), 1 / (1 + np.arange(8)) ** 2)
    want = [1, 1, 1, 1, 1, 1 / 11, 1 / 21, 1 / 31]
    np.testing.assert_allclose(inflight.hinge(10, 4).weight(tau), want, rtol=1e-6)


def test_a_run_resumes_to_the_bit_and_traces_once(data):
    strategy = made(staleness=inflight.hinge(0.5, 1))
    last = resumes(strategy, data, 14, simulate.uniform(3))
    assert 0 < last.metrics["simulated_seconds"] < last.metrics["simulated_time"]


@pytest.mark.parametrize(("recipe", "size"), [("fedbuff", 3), ("fedasync", 1)])
def test_recipes_learn(recipe, size):
    found = rooms.synthetic(num_users=USERS, num_items=40, interactions_per_user=9)
    ds = rooms.pack(rooms.leave_one_out()(found), evaluation_negatives=0)
    strategy = {"fedbuff": fedbuff, "fedasync": fedasync}[recipe](
        models.fedmf(ds.num_items, width=4), rooms.pointwise(2), concurrency=5,
        optimizer=clients.sgd(5.0), batch_size=16, clients_per_chunk=3,
    )  # fmt: skip
    state, infos = run(strategy, ds.store, cohorts(210 // size, size))
    infos = jax.device_get(infos)
    seen = [(i.metrics["loss"] * i.weight).sum() / i.weight.sum() for i in infos if i.weight.any()]
    assert np.mean(seen[-15:]) < np.mean(seen[:15]) - 0.01
    assert int(state.server["version"]) > 30


def test_errors_name_the_argument_and_the_remedy(data, monkeypatch):
    with pytest.raises(ValueError, match=r"asynchronous\(concurrency=0\) is too small"):
        made(concurrency=0)
    with pytest.raises(ValueError, match=r"more than the 15 clients there are; use concurrency <="):
        made(concurrency=16).init(KEY, USERS)
    with pytest.raises(ValueError, match=r"is below the cohort of 7.*use concurrency >= 7"):
        run(made(concurrency=6), data, [np.arange(7)])
    with pytest.raises(ValueError, match=r"held_rows=5\).*the 6 that a client.*or None"):
        run(made(held_rows=5), data, [[1, 2]])
    with pytest.raises(ValueError, match=r"the 30 that a client may touch"):
        run(made(held_rows=5, whole=True), data, [[1, 2]])
    with pytest.raises(ValueError, match="describes 2 clients"):
        run(made(clock=traced_clock([1.0, 1.0], 1, 1)), data, [[0, 1]])
    with pytest.raises(ValueError, match=r"fedasync\(mixing=1.5\) is no fraction"):
        fedasync(models.fedmf(ITEMS), rooms.pointwise(), concurrency=2, mixing=1.5)
    for bad in (lambda: inflight.polynomial(-1), lambda: inflight.hinge(1, -1)):
        with pytest.raises(ValueError, match=r"use . >= 0"):
            bad()
    monkeypatch.setattr(memory, "device_bytes", lambda: 2_000)
    with pytest.raises(MemoryError, match=r"uploads in flight of 6 clients .* held_rows="):
        made().init(KEY, USERS)
