"""A checkpoint leaves a frozen base that is the model's own to the model, and says which it was."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from crowd import BASE, KEY, adapted, merging, packed, same

from fedjax_rec import simulate

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def begun(strategy, dataset):
    return simulate.outline(lambda: strategy.init(KEY, dataset.num_clients))


def nbytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def played(strategy, dataset, rounds=1):
    *_, last = simulate.simulate(strategy, dataset.store, rounds, KEY)
    return last.state


@pytest.fixture
def dataset():
    return packed()


def test_a_base_that_rounds_leave_alone_is_not_written(dataset, tmp_path):
    base = jnp.asarray(BASE)
    strategy = adapted(dataset, base)
    like, state = begun(strategy, dataset), played(strategy, dataset)
    simulate.save_state(tmp_path / "whole", 1, state)
    simulate.save_state(tmp_path / "lent", 1, state, like)
    assert nbytes(tmp_path / "lent") < nbytes(tmp_path / "whole") - 0.9 * BASE.nbytes
    for folder in ("whole", "lent"):  # what was written before is read as well
        same(simulate.load_state(tmp_path / folder, 1, like), state)
    again = simulate.load_state(tmp_path / "lent", 1, like).shared["base"].value
    assert again.unsafe_buffer_pointer() == like.shared["base"].value.unsafe_buffer_pointer()


def test_checkpoints_of_a_run_go_on_beside_the_base(dataset, tmp_path):
    strategy = adapted(dataset, jnp.asarray(BASE))
    like = begun(strategy, dataset)
    checkpoints = simulate.Checkpoints(tmp_path / "checkpoints", "abc", like=like)
    checkpoints.save(1, played(strategy, dataset))
    done, state, _ = checkpoints.restore(like)
    checkpoints.close()
    assert done == 1 and nbytes(tmp_path) < BASE.nbytes / 2
    *_, last = simulate.simulate(strategy, dataset.store, 2, KEY, state=state)
    same(last.state, played(strategy, dataset, 2))
    found = simulate.parameters(tmp_path)
    assert set(found.lent) == {"['base'].value"} and "['base'].value" not in found.shared
    assert "['lora_a']" in found.shared


def test_a_base_that_rounds_change_is_written(dataset, tmp_path):
    strategy = merging(adapted(dataset, jnp.asarray(BASE)))
    like, state = begun(strategy, dataset), played(strategy, dataset)
    simulate.save_state(tmp_path, 1, state, like)
    np.testing.assert_allclose(
        simulate.load_state(tmp_path, 1, like).shared["base"].value, BASE + 0.5, rtol=1e-6
    )


@pytest.mark.parametrize("known", [True, False])
def test_another_base_is_refused_in_one_line(dataset, tmp_path, known):
    strategy = adapted(dataset, jnp.asarray(BASE))
    simulate.save_state(tmp_path, 1, played(strategy, dataset), begun(strategy, dataset))
    other = adapted(dataset, jnp.asarray(BASE[::-1].copy()))
    like = begun(other, dataset)
    if not known:
        like = jax.eval_shape(lambda: other.init(KEY, dataset.num_clients))
    with pytest.raises(simulate.OtherBase, match="use the weights and texts that it was") as error:
        simulate.load_state(tmp_path, 1, like)
    assert "\n" not in str(error.value) and "['base']" in str(error.value)
    assert ("none that is known" in str(error.value)) != known


def test_rounding_of_another_machine_is_told_and_taken(dataset, tmp_path):
    strategy = adapted(dataset, jnp.asarray(BASE))
    simulate.save_state(tmp_path, 1, played(strategy, dataset), begun(strategy, dataset))
    rounded = jnp.asarray(BASE) * (1 + 1e-6)
    with pytest.warns(UserWarning, match=r"differs from it by rounding .* not the same to the bit"):
        again = simulate.load_state(tmp_path, 1, begun(adapted(dataset, rounded), dataset))
    np.testing.assert_array_equal(again.shared["base"].value, rounded)


def test_a_model_of_another_base_does_not_start_from_it(dataset):
    other = simulate.Lent(begun(adapted(dataset, jnp.asarray(BASE.T.copy())), dataset).shared)
    marks = {"['base'].value": other.mark_of("['base'].value")}
    like = begun(adapted(dataset, jnp.asarray(BASE)), dataset).shared
    with pytest.raises(simulate.OtherBase, match=r"^what it learned is of a frozen \['base'\]"):
        simulate.Lent(like).refuse_other(marks, "what it learned")
    # A model without such a base takes nothing from it.
    simulate.Lent({"item": like["item"]}).refuse_other(marks, "what it learned")
    mine = simulate.Lent(like)
    mine.refuse_other({"['model']['base'].value": mine.mark_of("['base'].value")}, "it")
