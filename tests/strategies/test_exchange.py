"""Exchanges of models: who gets what, who is left alone, what is counted; graphs and weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.rounds import exchange, graphs

N, KEY = 12, jax.random.key(5)
GRAPHS = {
    "ring": graphs.ring(),
    "torus": graphs.torus(),
    "erdos_renyi": graphs.erdos_renyi(0.4, seed=3),
    "exponential": graphs.exponential(),
    "complete": graphs.complete(),
    "from_matrix": graphs.from_matrix(np.full((N, N), 1 / N)),
}
MOVING = {"derangement": exchange.derangement(), "cycle": exchange.cycle(),
          "pairs": exchange.pairs()}  # fmt: skip
EXCHANGES = {
    **MOVING,
    "average": exchange.average(),
    "periodic": exchange.periodic([exchange.average(), exchange.cycle()], [3, 1]),
    **{f"gossip {name}": exchange.gossip(graph) for name, graph in GRAPHS.items()},
}


def stack(seed=0):
    rng = np.random.default_rng(seed)
    return {"item": jnp.float32(rng.normal(size=(N, 5, 3))), "b": jnp.float32(rng.normal(size=N))}


def there(*away) -> jax.Array:
    weight = np.arange(1.0, N + 1)
    weight[list(away)] = 0
    return jnp.float32(weight)


def mixed(name, weight, key=KEY, round=0, models=None):
    mix = jax.jit(EXCHANGES[name].mix)
    models, sent, got = mix(key, jnp.int32(round), weight, models or stack())
    return jax.tree.map(np.asarray, models), np.asarray(sent), np.asarray(got)


@pytest.mark.parametrize("name", EXCHANGES)
def test_who_is_away_is_left_alone(name):
    away = [0, 3, 4, 11]
    before, (after, sent, got) = stack(), mixed(name, there(*away))
    for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(np.asarray(x)[away], y[away])
    assert not sent[away].any() and not got[away].any()
    assert sent.sum() == got.sum() > 0


@pytest.mark.parametrize("name", EXCHANGES)
@pytest.mark.parametrize("away", [range(N), range(1, N)])
def test_alone_or_empty_nothing_moves(name, away):
    before, (after, sent, got) = stack(), mixed(name, there(*away))
    for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_allclose(np.asarray(x), y, atol=1e-6)
    if name != "average" and name != "periodic":  # a mean goes up and down, whoever's it is
        assert not sent.any() and not got.any()


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("away", [(), (2,), (0, 5, 6, 7, 11)])
def test_models_that_move_are_permuted(name, away):
    """Whole models, each exactly once; sent and got by those whose model is another's."""
    models = {"name": jnp.arange(float(N))}
    after, sent, got = mixed(name, there(*away), models=models)
    by = after["name"].astype(int)
    assert sorted(by) == list(range(N))
    own = by == np.arange(N)
    count = N - len(away)
    left = set(np.flatnonzero(own)) - set(away)
    assert len(left) == (count % 2 if name == "pairs" else 0)
    np.testing.assert_array_equal(got, ~own)
    np.testing.assert_array_equal(sent, ~own)
    if name == "pairs":
        np.testing.assert_array_equal(by[by], np.arange(N))


def test_a_cycle_visits_everybody_in_order():
    models, weight, seen = {"name": jnp.arange(float(N))}, there(1, 8), []
    for _ in range(10):
        models = mixed("cycle", weight, models=models)[0]
        seen.append(int(models["name"][4]))
    assert seen == [3, 2, 0, 11, 10, 9, 7, 6, 5, 4]


def test_derangements_are_uniform():
    """Of four clients there are nine; each comes a ninth of the time."""
    weight = jnp.ones(4)
    draw = jax.jit(jax.vmap(lambda key: exchange.derangement().mix(
        key, 0, weight, jnp.arange(4))[0]))  # fmt: skip
    found, counts = np.unique(draw(jax.random.split(KEY, 9000)), axis=0, return_counts=True)
    assert len(found) == 9 and (found != np.arange(4)).all()
    assert abs(counts - 1000).max() < 5 * 1000**0.5


def test_the_average_is_weighted_by_examples():
    weight = there(0, 7)
    after, sent, got = mixed("average", weight)
    share = np.asarray(weight) / np.asarray(weight).sum()
    want = np.tensordot(share, np.asarray(stack()["item"]), 1)
    np.testing.assert_allclose(after["item"][5], want, atol=1e-6)
    assert (sent == got).all() and sent.sum() == N - 2


def test_who_all_hear_one_another_become_the_mean_of_those_who_are_there():
    away = [0, 3, 4, 11]
    after = mixed("gossip complete", there(*away))[0]["item"]
    here = np.setdiff1d(np.arange(N), away)
    want = np.asarray(stack()["item"])[here].mean(0)
    np.testing.assert_allclose(after[here], np.broadcast_to(want, after[here].shape), atol=1e-6)


def test_periods_are_counted_from_the_first_round():
    models = {"name": jnp.arange(float(N))}
    after = [mixed("periodic", there(), round=t, models=models)[0]["name"] for t in range(6)]
    assert [np.ptp(names) < 1e-5 for names in after] == [False, False, True] * 2
    rare = exchange.periodic([exchange.cycle()], [4])
    after, sent, _ = rare.mix(KEY, jnp.int32(0), there(), models)
    np.testing.assert_array_equal(after["name"], models["name"])
    assert not np.asarray(sent).any()


@pytest.mark.parametrize("name", GRAPHS)
def test_gossip_is_the_product_with_the_mixing_matrix(name):
    w = GRAPHS[name].mixing(N)
    assert (w >= 0).all()
    np.testing.assert_allclose(w.sum(1), 1)
    after, sent, got = mixed(f"gossip {name}", there())
    for x, y in zip(jax.tree.leaves(stack()), jax.tree.leaves(after), strict=True):
        np.testing.assert_allclose(y, np.tensordot(w, np.asarray(x), 1), atol=1e-5)
    off = (w != 0) & ~np.eye(N, dtype=bool)
    np.testing.assert_array_equal(got, off.sum(1))
    np.testing.assert_array_equal(sent, off.sum(0))


@pytest.mark.parametrize("name", GRAPHS)
def test_the_mean_stays_where_the_matrix_is_doubly_stochastic(name):
    """Also with clients away, of the symmetric ones."""
    for away in ((), (1, 2, 9)):
        if away and name == "exponential":
            continue
        after = mixed(f"gossip {name}", there(*away))[0]
        np.testing.assert_allclose(
            after["item"].mean(0), np.asarray(stack()["item"]).mean(0), atol=1e-6
        )


def test_known_graphs():
    """Rings have 1/3 three times a row; a torus of 3 x 4; hops of powers of two; eigenvalues."""
    np.testing.assert_allclose(graphs.ring().mixing(5)[0], [1 / 3, 1 / 3, 0, 0, 1 / 3])
    torus = graphs.torus().mixing(12)
    assert ((torus > 0).sum(1) == 5).all() and (torus == torus.T).all()
    assert set(np.flatnonzero(torus[5])) == {5, 4, 6, 1, 9}
    assert set(np.flatnonzero(graphs.exponential().mixing(9)[2])) == {2, 3, 4, 6, 1}
    n = 20
    want = (1 + 2 * np.cos(2 * np.pi / n)) / 3
    assert graphs.contraction(graphs.ring().mixing(n)) == pytest.approx(want)
    assert graphs.contraction(graphs.complete().mixing(n)) == pytest.approx(0, abs=1e-9)
    sparse = graphs.erdos_renyi(0.1, seed=1).mixing(40)
    np.testing.assert_array_equal(sparse, graphs.erdos_renyi(0.1, seed=1).mixing(40))
    assert 0.05 < (sparse[np.triu_indices(40, 1)] > 0).mean() < 0.16


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: graphs.from_matrix(np.ones((2, 3))), "has the shape"),
        (lambda: graphs.from_matrix([[0.5, 0.4], [0, 1]]), "rows that sum to 1"),
        (lambda: graphs.from_matrix([[1.5, -0.5], [0, 1]]), "entries >= 0"),
        (lambda: graphs.from_matrix(np.eye(3)).mixing(4), "is of 3 clients and there are 4"),
        (lambda: graphs.metropolis([[0, 1], [0, 0]]), "is not symmetric"),
        (lambda: graphs.erdos_renyi(1.5), "is no fraction"),
        (lambda: exchange.periodic([exchange.cycle()], [1, 2]), "2 periods for 1 exchanges"),
        (lambda: exchange.periodic([exchange.cycle()], [0]), "every=0"),
    ],
)
def test_errors_name_the_remedy(make, told):
    with pytest.raises(ValueError, match=told) as caught:
        make()
    assert "\n" not in str(caught.value)
