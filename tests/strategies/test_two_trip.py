"""PowerSGD in two trips: the algorithm in NumPy, what is owed, bytes of both trips, padding."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rounds import FIRST

from fedjax_rec import rows, wire
from fedjax_rec.rounds import memory
from fedjax_rec.rounds.two_trip import power_sgd
from fedjax_rec.rows import RowsUpdate, Table
from fedjax_rec.types import Client, Cohort, Model, Upload, record

KEY = jax.random.key(2)
N, ITEMS, D, SLOTS, RANK = 5, 30, 6, 8, 2
FAST = {"xla_backend_optimization_level": 0}


@record
class Own:
    """One client's data: its number."""

    id: jax.Array


@dataclass(frozen=True)
class Crowd:
    """A store whose clients hold nothing but their number."""

    num_clients: int = N

    def sizes(self, ids):
        return jnp.where(ids < self.num_clients, 1, 0)

    def take(self, ids):
        return Own(ids)

    def axes(self):
        return 0


def drawing(layout: str) -> Client:
    """A client whose update in a round is a table of random numbers, a matrix and a vector."""

    def update(key, private, shared, data, now):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(9), data.id), 4)
        keys = jax.vmap(lambda k: jax.random.fold_in(k, private))(keys)
        ids = jax.random.randint(keys[0], (SLOTS,), 0, ITEMS)
        table = shared["item"]
        if layout == "ids":
            local = rows.localize(table, ids)
        else:
            local = rows.mark(rows.whole(table), ids, jnp.ones(SLOTS))
        noise = jax.random.normal(keys[1], local.values.shape) * local.live[:, None]
        size = table.shape[0]
        change = {
            "bias": jax.random.normal(keys[2], (3,)),
            "item": RowsUpdate(noise, local.ids, local.live, None, size),
            "kernel": jax.random.normal(keys[3], (2, 5, D)),
        }
        return private + 1, Upload(change, 1.0 + data.id, {"loss": noise.sum()})

    return Client(lambda key, id: jnp.int32(0), update)


def shared(key):
    return {
        "bias": jnp.zeros(3),
        "item": Table(jnp.zeros((ITEMS, D))),
        "kernel": jnp.zeros((2, 5, D)),
    }


MODEL = Model(lambda key, common=None: (shared(key), ()), lambda *args: jnp.zeros(()))


class Play:
    """A strategy of one layout, compiled once."""

    def __init__(self, layout, rank=RANK):
        self.client = drawing(layout)
        self.strategy = power_sgd(self.client, MODEL, rank)
        self.step = jax.jit(
            lambda s, ids: self.strategy.round(KEY, s, Cohort(ids, Crowd())), compiler_options=FAST
        )
        self.start = self.strategy.init(KEY, N)
        self.work = jax.jit(
            jax.vmap(self.client.update, (None, 0, None, 0, None)), compiler_options=FAST
        )

    def updates(self, state, ids):
        """Of these clients in this round: dense updates [C, ...] as NumPy, the raw upload."""
        _, upload = self.work(
            KEY, state.private[jnp.asarray(ids)], state.shared, Own(jnp.asarray(ids)), FIRST
        )
        dense = {
            "bias": upload.update["bias"],
            "item": jax.vmap(rows.to_dense)(upload.update["item"]),
            "kernel": upload.update["kernel"].reshape(-1, 10, D),
        }
        return {k: np.asarray(v, np.float64) for k, v in dense.items()}, upload


@pytest.fixture(scope="module")
def played():
    return {layout: Play(layout) for layout in ("ids", "whole")}


def orth(x):
    return np.linalg.qr(x)[0]


LAYOUTS = pytest.mark.parametrize("layout", ["ids", "whole"])


@LAYOUTS
def test_rounds_follow_the_algorithm(played, layout):
    """Two rounds of a whole cohort against NumPy: P P^T of the mean, errors, and the next Q."""
    this = played[layout]
    state = this.start
    weights = (1.0 + np.arange(N)) / (1.0 + np.arange(N)).sum()
    mean = lambda x: np.tensordot(weights, x, 1)
    error = {"item": np.zeros((N, ITEMS, D)), "kernel": np.zeros((N, 10, D))}
    server = np.zeros((ITEMS, D))
    warm = dict(
        zip(("item", "kernel"), map(np.float64, this.start.server["warm"][1:]), strict=True)
    )
    for _ in range(2):
        dense, upload = this.updates(state, np.arange(N))
        before = state
        state, _ = this.step(state, jnp.arange(N))
        moved = jax.tree.map(
            lambda a, b: np.float64(b) - np.float64(a), before.shared, state.shared
        )
        np.testing.assert_allclose(moved["bias"], mean(dense["bias"]), atol=1e-5)
        touched = np.asarray(jax.vmap(rows.clients_per_row, (0, 0))(
            jnp.ones((N, 1)), jax.tree.map(lambda x: x[:, None], upload.update["item"])
        )) > 0  # fmt: skip
        for name in ("item", "kernel"):
            there = touched[..., None] if name == "item" else np.ones((N, 10, 1), bool)
            m = dense[name] + np.where(there, error[name], 0)
            extra = server if name == "item" else 0.0
            p = orth((mean(m) + extra) @ warm[name])
            q = np.stack([x.T @ p for x in m])
            total = mean(q) + (extra.T @ p if name == "item" else 0.0)
            step = moved[name].values if name == "item" else moved[name].reshape(10, D)
            np.testing.assert_allclose(step, p @ total.T, atol=2e-5)
            back = np.where(there, p @ q.transpose(0, 2, 1), 0)
            error[name] = np.where(there, m - back, error[name])
            if name == "item":
                server = server + mean(back) - p @ total.T
            warm[name] = total
        np.testing.assert_allclose(state.memory[1], error["item"], atol=2e-5)
        np.testing.assert_allclose(
            np.asarray(state.memory[2]).reshape(N, 10, D), error["kernel"], atol=2e-5
        )
        np.testing.assert_allclose(state.server["error"][1], server, atol=2e-5)


def test_nothing_is_lost(played):
    """With equal clients the sum of mean updates is what was applied and what is remembered."""
    this, total = played["ids"], 0.0
    state, weights = this.start, (1.0 + np.arange(N)) / (1.0 + np.arange(N)).sum()
    for _ in range(5):
        dense, _ = this.updates(state, np.arange(N))
        total = total + np.tensordot(weights, dense["item"], 1)
        state, _ = this.step(state, jnp.arange(N))
    owed = np.tensordot(weights, np.asarray(state.memory[1], np.float64), 1)
    owed = owed + np.asarray(state.server["error"][1])
    np.testing.assert_allclose(np.asarray(state.shared["item"].values) + owed, total, atol=1e-4)
    assert np.abs(owed).max() > 0.1


def test_layouts_agree(played):
    """Rows with ids and whole tables, in what draws the same random numbers: the matrix."""
    a, b = (
        played[layout].step(played[layout].start, jnp.arange(N))[0] for layout in ("ids", "whole")
    )
    np.testing.assert_allclose(a.shared["kernel"], b.shared["kernel"], atol=1e-6)


@LAYOUTS
def test_bytes_are_those_of_the_messages(played, layout):
    """Up: both trips, 4 r (n + D) bytes a matrix and the ids. Down: the model's rows, and P."""
    this = played[layout]
    ids = jnp.arange(N)
    _, info = this.step(this.start, ids)
    send = lambda state, ids: this.strategy.packets(KEY, state, Cohort(ids, Crowd()))
    packets, counted = jax.jit(send, compiler_options=FAST)(this.start, ids)
    _, upload = this.updates(this.start, np.arange(N))
    for i in range(N):
        trips = [len(wire.to_bytes(jax.tree.map(lambda x, i=i: x[i], part))) for part in packets]
        assert len(trips) == 2 and sum(trips) == int(counted[i]) == int(info.bytes_up[i])
        n = int(upload.update["item"].live[i].sum())
        numbers = 4 * (3 + RANK * (n + D + 10 + D))
        assert 0 < int(info.bytes_up[i]) - numbers < 30
        assert int(info.bytes_down[i]) - 4 * (3 + 10 * D + n * D + RANK * (n + 10)) in range(10, 45)


def test_the_q_of_before_is_sent_to_all_who_come_back(played):
    """From the second round on Q [D, r] of the table and of the kernel come down, 4 r D bytes each
    in a part of 2 bytes more, in a message of 3 bytes and no more: also to who was never there. In
    the first round Q is what the shapes say."""
    this = played["ids"]
    q = 3 + 2 * (2 + 4 * RANK * D)
    state = this.start
    for extra in (0, q):
        state, info = this.step(before := state, jnp.asarray([0, 3, N, N, N]))
        _, upload = this.updates(before, np.arange(N))
        for slot, id in enumerate((0, 3)):
            rows_of = jax.tree.map(lambda x, id=id: x[id], upload.update["item"])
            n = int(rows_of.live.sum())
            ids = wire.Live(jnp.zeros((SLOTS, RANK)), rows_of.live)
            left = wire.nbytes([ids, jnp.zeros((2, 5, RANK))])
            table = replace(rows_of, origin=None)
            model = wire.nbytes([jnp.zeros(3), table, jnp.zeros((2, 5, D))])
            assert int(left) == 3 + 1 + 2 + 4 * RANK * n + 2 + 4 * RANK * 10
            assert int(info.bytes_down[slot]) == int(model) + int(left) + extra
        assert not np.asarray(info.bytes_down)[2:].any()
    _, info = this.step(state, jnp.asarray([4, N, N, N, N]))
    never = int(info.bytes_down[0])
    _, info = this.step(replace(state, round=jnp.int32(0)), jnp.asarray([4, N, N, N, N]))
    assert never == int(info.bytes_down[0]) + q


def test_padding_and_an_empty_cohort_change_nothing(played):
    this = played["ids"]
    a, info = this.step(this.start, jnp.asarray([1, 3, N, N, N]))
    b, _ = this.step(this.start, jnp.asarray([N, N, 3, 1, N]))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)
    assert not np.asarray(info.bytes_up)[2:].any() and (np.asarray(info.bytes_up)[:2] > 0).all()
    untouched = np.asarray(a.memory[1])[[0, 2, 4]]
    assert not untouched.any()
    none, _ = this.step(this.start, jnp.full(N, N))
    for x, y in zip(jax.tree.leaves(none), jax.tree.leaves(this.start), strict=True):
        if jnp.ndim(x):
            np.testing.assert_allclose(x, y, atol=1e-7)


def test_what_does_not_fit_is_refused(monkeypatch):
    strategy = power_sgd(drawing("ids"), MODEL, RANK)
    state = strategy.init(KEY, N)
    monkeypatch.setattr(memory, "device_bytes", lambda: 5000)
    with pytest.raises(MemoryError, match=r"updates between the trips.*use smaller cohorts"):
        strategy.round(KEY, state, Cohort(jnp.arange(N), Crowd()))
    with pytest.raises(MemoryError, match=r"error memory of 5 clients.*remember_rows"):
        strategy.init(KEY, N)


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"power_sgd\(rank=0\).*use rank >= 1"):
        power_sgd(drawing("ids"), MODEL, 0)
