"""A whole run as a function of its numbers, held against `simulate`; and many of them at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from crowd import KEY, crowd, gauge, packed, walk

from fedjax_rec import clients, data, evaluate, models, simulate, strategies
from fedjax_rec.simulate import Parts, whole

pytestmark = pytest.mark.usefixtures("compiled_fast")
ROUNDS, EVERY = 5, 2


@pytest.fixture(scope="module", autouse=True)
def dataset():
    """Packed before anything is traced."""
    return packed_once()


@functools.cache
def packed_once():
    return packed()


def made(rate) -> Parts:
    """FedMF of a learning rate, on half of the clients, measured on the full catalogue."""
    model = models.fedmf(20, width=4)
    strategy = strategies.fedavg(model, data.pointwise(2), optimizer=clients.sgd(rate))
    protocol = evaluate.full_catalogue(evaluate.metrics(["ndcg@10"]), 20)
    measure = simulate.aggregated(strategy.model, protocol, {"test": packed_once().test})
    return Parts(strategy, simulate.uniform(5), measure)


def of_simulate(parts: Parts, key, store):
    steps = simulate.simulate(
        parts.strategy, store, ROUNDS, key, parts.cohorts, parts.measure, EVERY
    )
    found = [(one.metrics, jax.tree.map(np.array, one.state)) for one in steps]
    return [metrics for metrics, _ in found], found[-1][1]


def test_it_is_the_run_that_simulate_plays():
    store, rate = packed_once().store, 0.3
    metrics, state = of_simulate(made(rate), KEY, store)
    run = simulate.whole_run(made, store, ROUNDS, EVERY, inputs=1.0)
    after, curves = jax.jit(run)(KEY, rate, store)
    assert curves["round"].tolist() == [2, 4, 5] and bool(curves["finite"].all())
    for x, y in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    assert curves.keys() - {"finite"} == metrics[0].keys() - {"seconds"}
    for name in curves.keys() - {"finite"}:
        np.testing.assert_allclose(curves[name], [one[name] for one in metrics], rtol=1e-5)


def test_the_numbers_move_the_run():
    store = packed_once().store
    run = jax.jit(simulate.whole_run(made, store, ROUNDS, EVERY, inputs=1.0))
    losses = [float(run(KEY, rate, store)[1]["loss"][-1]) for rate in (0.0, 2.0)]
    assert losses[0] > losses[1] + 1e-3


@pytest.mark.parametrize("play", [whole._on_cores, whole._in_groups])
def test_many_runs_are_each_of_them_alone(play, monkeypatch):
    """Three runs, which do not fill groups of two."""
    monkeypatch.setattr(whole, "_that_fit", lambda peak: 2)
    monkeypatch.setattr(whole, "_on_cores", play)
    store, rates = packed_once().store, jnp.asarray([0.1, 0.3, 1.0])
    seeds = jax.vmap(jax.random.key)(jnp.arange(3))
    last = lambda state: state.shared
    curves, shared = simulate.sweep(made, store, ROUNDS, seeds, rates, EVERY, last)
    assert curves["loss"].shape == (3, 3)
    run = jax.jit(simulate.whole_run(made, store, ROUNDS, EVERY, inputs=1.0))
    for i in range(3):
        state, alone = run(seeds[i], rates[i], store)
        for name in alone:
            np.testing.assert_allclose(curves[name][i], alone[name], rtol=1e-4, atol=1e-6)
        mine = jax.tree.map(lambda x, i=i: x[i], shared)
        for x, y in zip(jax.tree.leaves(mine), jax.tree.leaves(state.shared), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def test_a_program_is_compiled_once_for_all_keys_and_numbers():
    traces: list = []
    strategy = walk(traces)
    program = simulate.program(lambda scale: Parts(strategy, None, gauge()))
    found = []
    for seed in range(3):
        key = jax.random.key(seed)
        calls = program.of(key, float(seed))
        (*_, end) = simulate.simulate(strategy, crowd(), 4, key, None, gauge(), 2, calls=calls)
        found.append(end.metrics["level"])
    assert len(traces) == 1
    alone = [
        list(simulate.simulate(walk(), crowd(), 4, jax.random.key(s), None, gauge(), 2))[-1]
        for s in range(3)
    ]
    assert found == [one.metrics["level"] for one in alone] and len(set(found)) == 3


def test_a_diverged_run_is_told_from_its_neighbours():
    run = lambda wrong_from: Parts(walk(wrong_from=wrong_from), None, gauge())
    seeds = jax.vmap(jax.random.key)(jnp.arange(2))
    curves, _ = simulate.sweep(run, crowd(), 4, seeds, jnp.asarray([3, 99]))
    assert curves["finite"].tolist() == [[True, True, False, False], [True] * 4]
    assert np.isfinite(curves["loss"][1]).all()


def test_what_cannot_fit_is_refused():
    with strategies.memory_budget("1KiB"), pytest.raises(MemoryError, match="a run takes"):
        simulate.sweep(lambda _: Parts(walk()), crowd(), 2, jax.vmap(jax.random.key)(jnp.arange(2)))


@pytest.mark.parametrize(("name", "value"), [("rounds", 0), ("every", 0)])
def test_numbers_of_rounds(name, value):
    given = {"rounds": 2, "every": 1, name: value}
    with pytest.raises(ValueError, match=f"whole_run\\({name}=0\\)"):
        simulate.whole_run(lambda _: Parts(walk()), crowd(), **given)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"keys": jax.random.key(0)}, r"sweep\(keys\) of shape \(\) is no list of keys"),
        ({"keys": jax.random.PRNGKey(0)}, r"sweep\(keys\) of shape \(2,\)"),
        ({"keys": jax.random.split(KEY, 3)[:0]}, r"of shape \(0,\)"),
        ({"inputs": 0.1}, r"sweep\(inputs\) has a leaf of shape \(\) for 3 runs"),
        ({"inputs": jnp.ones(2)}, r"leaf of shape \(2,\) for 3 runs"),
        ({"workers": 0}, "workers=0"),
        ({"every": 0}, "every=0"),
    ],
)
def test_what_is_no_list_of_runs_is_refused(given, told):
    right = {"keys": jax.random.split(KEY, 3), "inputs": jnp.ones(3)}
    with pytest.raises(ValueError, match=told):
        simulate.sweep(made, packed_once().store, ROUNDS, **{**right, **given})


def test_runs_of_numpy_numbers_without_a_measure(monkeypatch):
    """A tree of NumPy arrays, in groups as an accelerator plays them; measured once, at the end."""
    monkeypatch.setattr(whole, "_on_cores", whole._in_groups)
    bare = lambda x: Parts(made(x["rate"]).strategy, simulate.uniform(5))
    keys, rates = jax.random.split(KEY, 2), {"rate": np.asarray([0.1, 0.3], np.float32)}
    curves, _ = simulate.sweep(bare, packed_once().store, 2, keys, rates, every=9)
    assert curves["round"].tolist() == [[2], [2]] and "ndcg@10" not in curves
    assert np.isfinite(curves["loss"]).all()
