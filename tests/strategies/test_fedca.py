"""FedCA against a loop in NumPy over clients, steps of Adam, axes and weights; the projection
against bisection; bytes by hand, and what is refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_hetefedrec import ITEMS, USERS, examples, items_of, rows_of, slope, split

from fedjax_rec import compress, data, keys, models, simulate, strategies, wire
from fedjax_rec.rounds import memory
from fedjax_rec.strategies.fedca import agreement, likeness, on_simplex, principal
from fedjax_rec.types import Cohort, Packet

pytestmark = pytest.mark.usefixtures("compiled_fast")

WIDTH, AXES, EPOCHS, RATE, ONE_IN = 4, 2, 2, 0.05, 2
ALPHA, BETA, RHO = 0.4, 0.7, 0.6
KEY = jax.random.key(5)
# Who is there, round by round; 9 is nobody. Of seven, three are drawn, and of nine four.
COHORTS = [range(USERS), [8, 0, 3, 5, 2, 6, 7], [1, 2, 4, 9, 6]]


@pytest.fixture(scope="module")
def dataset():
    return data.pack(split(), evaluation_negatives=0)


def strategy_of(model=None, **parts):
    given: dict[str, Any] = {"alpha": ALPHA, "beta": BETA, "interpolation": RHO, "one_in": ONE_IN}
    given |= {"axes": AXES, "epochs": EPOCHS, "learning_rate": RATE, "clients_per_chunk": 4}
    model = model or models.fedmf(ITEMS, width=WIDTH, scale=1.0)
    return strategies.fedca(model, examples(), **given | parts)


def played(strategy, dataset):
    """(State, RoundInfo) after each of the rounds, and the state before."""
    state = strategy.init(KEY, USERS)
    round = jax.jit(strategy.round)
    out: list[Any] = [(state, None)]
    for ids in COHORTS:
        state, info = round(KEY, state, Cohort(jnp.array(list(ids), jnp.int32), dataset.store))
        out.append((state, info))
    return out


def trained(p, q, items, client):
    """(p, q) of one client after its steps of Adam on all of its examples."""
    named, labels = rows_of(items, client)

    def loss(p, q):
        scores = q[named] @ p
        return np.mean(np.log1p(np.exp(scores)) - np.array(labels) * scores)

    first, second = [0.0, 0.0], [0.0, 0.0]
    for t in range(1, EPOCHS + 1):
        slopes = slope(p, lambda x, q=q: loss(x, q)), slope(q, lambda x, p=p: loss(p, x))
        for i, g in enumerate(slopes):
            first[i] = 0.9 * first[i] + 0.1 * g
            second[i] = 0.999 * second[i] + 0.001 * g**2
        steps = [
            m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            for m, v in zip(first, second, strict=True)
        ]
        p, q = p - RATE * steps[0], q - RATE * steps[1]
    return p, q


def axes_of(rows, count):
    """The principal axes of rows by their singular vectors, one after another."""
    vectors = np.linalg.svd(rows - rows.mean(0))[2][:count]
    return np.array([v * np.sign(v[np.argmax(np.abs(v))]) for v in vectors])


def angle_between(a, b):
    """The mean angle of axes, the nearest pairs first."""
    pairs, angles = [(i, j) for i in range(len(a)) for j in range(len(b))], []
    while pairs:
        i, j = max(pairs, key=lambda p: a[p[0]] @ b[p[1]])
        angles.append(np.arccos(np.clip(a[i] @ b[j], -1, 1)))
        pairs = [(x, y) for x, y in pairs if x != i and y != j]
    return np.mean(angles)


def projected(target):
    """The point of the simplex next to `target`, by bisection for what is taken off."""
    low, high = target.min() - 1, target.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(target - middle, 0).sum() > 1 else (low, middle)
    return np.maximum(target - low, 0)


def mixed(tables, axes, counts, drawn):
    """({client: its table}, {client: its own weight}) of those who are drawn."""
    score = {u: (tables[u] - tables[u].mean(0)) @ axes_of(tables[u], 1)[0] for u in drawn}
    total = sum(counts[u] for u in drawn)
    after, own = {}, {}
    for i in drawn:
        target = np.array([
            counts[j] / total
            + ALPHA * np.cos(angle_between(axes[i], axes[j]))
            + BETA / (1 + np.linalg.norm(score[i] - score[j]))
            for j in drawn
        ])  # fmt: skip
        weights = projected(target)
        sum_ = sum(w * tables[j] for w, j in zip(weights, drawn, strict=True))
        after[i] = RHO * tables[i] + (1 - RHO) * sum_
        own[i] = weights[drawn.index(i)]
    return after, own


def by_hand(private, items):
    """After each round: (vectors, tables, own weights)."""
    p = np.asarray(private["own"]["user"][:, 0], float)
    tables = np.asarray(private["model"]["item"], float)
    for round, ids in enumerate(COHORTS):
        ids = sorted(u for u in ids if u < USERS)
        p, tables, axes, counts = p.copy(), tables.copy(), {}, {}
        for u in ids:
            p[u], tables[u] = trained(p[u], tables[u], items[u], u)
            named, _ = rows_of(items[u], u)
            axes[u], counts[u] = axes_of(tables[u][named], AXES), len(named)
        key = keys.stream(jax.random.fold_in(KEY, round), "mixing")
        lots = np.asarray(jax.random.uniform(keys.stream(key, "clients"), (USERS,)))
        drawn = sorted(ids, key=lambda u: -lots[u])[: len(ids) // ONE_IN]
        after, own = mixed(tables, axes, counts, drawn)
        for u, table in after.items():
            tables[u] = table
        yield p, tables, own


@pytest.mark.parametrize("chunk", [4, None], ids=["chunks", "at once"])
def test_rounds_are_those_of_a_loop(dataset, chunk):
    (start, _), *rounds = played(strategy_of(clients_per_chunk=chunk), dataset)
    hand = by_hand(start.private, items_of(split()))
    for ids, (state, info), (p, tables, own) in zip(COHORTS, rounds, hand, strict=True):
        np.testing.assert_allclose(state.private["own"]["user"][:, 0], p, atol=2e-4)
        np.testing.assert_allclose(state.private["model"]["item"], tables, atol=2e-4)
        np.testing.assert_array_equal(info.metrics["mixed"], [u in own for u in ids])
        np.testing.assert_allclose(
            info.metrics["own_weight"], [own.get(u, 0.0) for u in ids], atol=1e-3
        )
        assert 1 < len(own) < len(ids)
        assert any(0 < x < 1 for x in own.values())


def test_with_all_of_its_own_a_client_is_alone(dataset):
    """Of interpolation=1 it makes no difference who is drawn."""
    *_, (alone, _) = played(strategy_of(interpolation=1.0), dataset)
    *_, (never, _) = played(strategy_of(one_in=9, interpolation=1.0), dataset)
    got, want = (s.private["model"]["item"] for s in (alone, never))
    np.testing.assert_allclose(got, want, atol=1e-5)
    *_, (other, _) = played(strategy_of(), dataset)
    assert (alone.private["model"]["item"] != other.private["model"]["item"]).any()


def test_who_is_not_drawn_keeps_its_table(dataset):
    _, (before, _), (after, info), _ = played(strategy_of(interpolation=0.0), dataset)
    away = np.setdiff1d(np.arange(USERS), list(COHORTS[1]))
    for x, y in zip(jax.tree.leaves(before.private), jax.tree.leaves(after.private), strict=True):
        np.testing.assert_array_equal(x[away], y[away])
    assert float(info.metrics["mixed"].sum()) == 3


def test_bytes_are_a_table_and_axes_up_and_a_table_down(dataset):
    strategy = strategy_of()
    (state, _), (_, info), *_ = played(strategy, dataset)
    found = simulate.audit(strategy, state, dataset.store, KEY, clients=USERS)
    assert found["message"] == found["ledger"] == info.bytes_up.sum()
    table = len(wire.to_bytes(Packet({"item": np.zeros((ITEMS, WIDTH), np.float32)})))
    np.testing.assert_array_equal(info.bytes_down, table * np.asarray(info.metrics["mixed"]))
    beyond = np.asarray(info.bytes_up, int) - table
    assert (beyond >= 4 * AXES * WIDTH).all() and (beyond < 4 * AXES * WIDTH + 16).all()


def test_a_compressed_table_is_what_the_client_goes_on_from(dataset):
    *_, (state, info) = played(strategy_of(uplink=compress.cast("float16")), dataset)
    *_, (plain, whole) = played(strategy_of(), dataset)
    assert (info.bytes_up[:3] < whole.bytes_up[:3]).all()
    got, want = (np.asarray(s.private["model"]["item"]) for s in (state, plain))
    np.testing.assert_allclose(got, want, atol=0.02)
    assert (got != want).any()


def test_the_projection_is_the_minimum():
    targets = np.random.default_rng(0).normal(size=(6, 6))
    targets[0] = 1 / 6
    got = np.asarray(on_simplex(jnp.array(targets, jnp.float32)))
    np.testing.assert_allclose(got, [projected(x) for x in targets], atol=1e-5)
    np.testing.assert_allclose(got.sum(1), 1, atol=1e-5)
    # Who is not there gets nothing, whatever it wants.
    masked = jnp.array(targets, jnp.float32).at[:, 2:].set(-1e3)
    got = np.asarray(on_simplex(masked))
    np.testing.assert_allclose(got[:, :2], [projected(x[:2]) for x in targets], atol=1e-4)
    assert not got[:, 2:].any()


def test_terms_are_their_definitions():
    rng = np.random.default_rng(1)
    tables = rng.normal(size=(3, 20, WIDTH)).astype(np.float32)
    score = [(t - t.mean(0)) @ axes_of(t, 1)[0] for t in tables]
    want = [[1 / (1 + np.linalg.norm(a - b)) for b in score] for a in score]
    np.testing.assert_allclose(likeness(jnp.array(tables)), want, rtol=1e-4)
    axes = np.stack([axes_of(t, 3) for t in tables])
    spread = np.stack([np.cov(t.T) for t in tables])
    np.testing.assert_allclose(principal(jnp.array(spread, jnp.float32), 3), axes, atol=1e-4)
    want = [[np.cos(angle_between(a, b)) for b in axes] for a in axes]
    np.testing.assert_allclose(agreement(jnp.array(axes)), want, atol=1e-3)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: strategy_of(alpha=-1.0), "alpha"),
        (lambda: strategy_of(beta=-1.0), "beta"),
        (lambda: strategy_of(interpolation=1.5), "interpolation"),
        (lambda: strategy_of(one_in=0), "one_in"),
        (lambda: strategy_of(axes=0), "axes"),
        (lambda: strategy_of(axes=WIDTH + 1), "at most as many"),
        (lambda: strategy_of(models.mlp(ITEMS)), "one table of items"),
    ],
)
def test_what_is_wrong_is_said(make, told):
    with pytest.raises(ValueError, match=told):
        make()


def test_too_many_tables_are_refused(monkeypatch):
    monkeypatch.setattr(memory, "device_bytes", lambda: 1000)
    with pytest.raises(MemoryError, match="models of all clients of 9 clients"):
        strategy_of().init(KEY, USERS)
