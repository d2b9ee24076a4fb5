"""What rounds leave as it is, such as a frozen base, is held once; what they change is theirs."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from crowd import BASE, KEY, adapted, merging, packed

from fedjax_rec import simulate
from fedjax_rec.experiment.best import BestState
from fedjax_rec.simulate import unchanged


def held(nbytes: int) -> list[int]:
    """Buffers of so many bytes, each of which may have several arrays."""
    gc.collect()
    of_size = [x for x in jax.live_arrays() if x.nbytes == nbytes and not x.is_deleted()]
    return sorted({x.unsafe_buffer_pointer() for x in of_size})


def test_a_base_is_held_once_by_model_state_and_calls():
    dataset, base = packed(), jnp.asarray(BASE) + 0.0
    strategy = adapted(dataset, base)
    before = set(held(BASE.nbytes)) - {base.unsafe_buffer_pointer()}
    calls = simulate.program(lambda _: simulate.Parts(strategy)).of(KEY)
    states = []
    for step in simulate.simulate(strategy, dataset.store, 2, KEY, calls=calls):
        states.append(step.running)
        assert set(held(BASE.nbytes)) - before == {base.unsafe_buffer_pointer()}
    memory = calls.compiled(step.running, dataset.store, 1, 1).memory()
    assert memory.output_size_in_bytes - memory.alias_size_in_bytes < BASE.nbytes / 10
    # What rounds change was given up, and the base was not.
    assert (
        states[0].shared["lora_a"].is_deleted() and not states[0].shared["base"].value.is_deleted()
    )
    assert not base.is_deleted()


def test_a_base_that_rounds_change_is_the_runs_own():
    dataset, base = packed(), jnp.asarray(BASE) + 0.0
    strategy = adapted(dataset, base)
    program = simulate.program(lambda _: simulate.Parts(merging(strategy)))
    for key in (KEY, jax.random.key(1)):  # a second run begins with the base of the model
        run = simulate.simulate(strategy, dataset.store, 3, key, calls=program.of(key))
        *_, last = run
        np.testing.assert_allclose(last.state.shared["base"].value, BASE + 1.5, rtol=1e-6)
    np.testing.assert_array_equal(base, BASE)


def test_the_best_state_has_the_base_of_its_round(tmp_path):
    dataset, base = packed(), jnp.asarray(BASE) + 0.0
    strategy = merging(adapted(dataset, base))
    like = simulate.outline(lambda: strategy.init(KEY, dataset.num_clients))
    kept = BestState(tmp_path, like=like)
    for step in simulate.simulate(strategy, dataset.store, 3, KEY):
        if step.round == 1:
            kept.take(1, step.running)
    kept.write()
    found = simulate.load_state(tmp_path, 1, like).shared["base"].value
    np.testing.assert_allclose(found, BASE + 0.5, rtol=1e-6)


def test_what_stays_is_not_carried_and_runs_of_a_vmap_share_it():
    def step(state):
        x, same, moved, other = state
        return (x * 0.5 + same.sum(), same, other, moved), x.sum()

    state = (jnp.ones(3), jnp.arange(4.0), jnp.zeros(2), jnp.ones(2))
    after, told = jax.jit(lambda s: unchanged.scan(step, s, 5))(state)
    expected, expected_told = jax.lax.scan(lambda s, _: step(s), state, None, length=5)
    jax.tree.map(np.testing.assert_array_equal, (after, told), (expected, expected_told))

    program = jax.make_jaxpr(lambda s: unchanged.scan(step, s, 5))(state)
    (loop,) = [e for e in program.jaxpr.eqns if e.primitive.name == "scan"]
    assert loop.params["num_carry"] == 3  # two that change places are not what they were
    many = lambda x: unchanged.scan(step, (x, *state[1:]), 5)[0][1]
    assert jax.jit(jax.vmap(many, out_axes=None))(jnp.ones((2, 3))).shape == (4,)


@pytest.mark.parametrize("within", [lambda f: f, jax.jit], ids=["plain", "a call"])
def test_what_a_start_closes_over_comes_out_as_it_is(within):
    constant, used = jnp.arange(3.0), jnp.arange(4.0)
    made_of = within(lambda same, used, x: {"same": same, "given": x, "made": 2 * used + x})
    begun = unchanged.Begun(lambda x: made_of(constant, used, x), 1.0)
    made = begun(3.0)
    assert made["same"].unsafe_buffer_pointer() == constant.unsafe_buffer_pointer()
    np.testing.assert_array_equal(made["made"], 2 * np.arange(4.0) + 3)
    assert made["given"] == 3
    mine = begun.owned([made["same"], made["made"]])
    assert mine[0].unsafe_buffer_pointer() != constant.unsafe_buffer_pointer()
    assert mine[1] is made["made"]
