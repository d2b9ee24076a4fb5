"""Checkpoints: what is restored is what was saved, to the bit; half-written ones do not count."""

import gc
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from crowd import KEY, N, crowd, factorization, packed, same, walk

from fedjax_rec.simulate import Checkpoints, simulate
from fedjax_rec.types import State


@pytest.fixture
def opened(tmp_path):
    """Opens Checkpoints in one folder, and closes them at the end."""
    made = []

    def open_(fingerprint="abc", **kwargs):
        made.append(Checkpoints(tmp_path / "checkpoints", fingerprint, **kwargs))
        return made[-1]

    yield open_
    for one in made:
        one.close()


def awkward() -> State:
    """Dtypes, scalars, empty arrays, NaN and odd names."""
    shared = {
        "half": jnp.array([1.5, jnp.nan, -jnp.inf], jnp.bfloat16),
        "a/b": jnp.arange(6, dtype=jnp.int8).reshape(2, 3),
        "nested": [jnp.float32(0.1), (jnp.zeros((0, 4)), jnp.array([True, False]))],
        "bits": jnp.array([2**32 - 1], jnp.uint32),
    }
    return State(shared, {"u": jnp.full((3, 1, 2), 1e-38)}, (), {"m": ()}, jnp.int32(4))


def test_a_state_comes_back_to_the_bit(opened):
    opened().save(4, awkward(), {"values": np.array([[0.1, np.nan]], np.float32)})
    step, state, extras = opened().restore(jax.eval_shape(awkward))
    assert step == 4
    same(state, awkward())
    np.testing.assert_array_equal(extras["values"], np.array([[0.1, np.nan]], np.float32))


def test_a_state_without_extras(opened):
    one = opened()
    one.save(1, walk().init(KEY, N))
    assert one.restore(walk().init(KEY, N))[2] == {}


def test_a_real_state_comes_back_from_its_shapes_alone(opened):
    data = packed(users=4)
    strategy = factorization(data)
    state = strategy.init(KEY, 4)
    opened().save(0, state)
    like = jax.eval_shape(lambda: strategy.init(KEY, 4))
    same(opened().restore(like)[1], state)


def test_a_run_goes_on_from_a_checkpoint_as_if_never_stopped(opened):
    one = opened()
    for progress in simulate(walk(), crowd(), 3, KEY):
        one.save(progress.round, progress.state)
    step, state, _ = opened().restore(jax.eval_shape(lambda: walk().init(KEY, N)))
    assert step == 3
    (*_, resumed) = simulate(walk(), crowd(), 6, KEY, state=state)
    (*_, straight) = simulate(walk(), crowd(), 6, KEY)
    same(resumed.state, straight.state)


def test_the_last_are_kept(opened):
    one = opened(keep=2)
    assert one.latest() is None
    for step in (2, 4, 6):
        one.save(step, awkward())
    one.save(6, awkward())  # Once more is harmless.
    assert one.latest() == 6 and sorted(one.manager.all_steps()) == [4, 6]


def test_another_configuration_is_refused_in_one_line(opened):
    opened("abc").save(3, awkward())
    with pytest.raises(ValueError) as error:
        opened("xyz").restore(awkward())
    told = str(error.value)
    assert "\n" not in told
    for part in ("checkpoints", "round 3", "abc", "xyz", "--overwrite"):
        assert part in told


def test_an_interrupted_write_leaves_the_earlier_one(opened, monkeypatch, tmp_path):
    one = opened()
    one.save(2, awkward())
    # As a kill leaves it: orbax's temporary folder, with part of the files.
    torn = tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "checkpoints" / "2", torn)
    for file in list(torn.rglob("*"))[::2]:
        if file.is_file():
            file.unlink()
    again = opened()
    assert again.latest() == 2
    same(again.restore(awkward())[1], awkward())
    again.save(4, awkward())
    assert opened().latest() == 4


def test_an_empty_folder_has_nothing_to_restore(opened):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        opened().restore(awkward())


@pytest.mark.filterwarnings("ignore:coroutine")  # orbax drops the others where one fails
def test_a_full_disk_leaves_the_earlier_one(opened, monkeypatch):
    one = opened()
    one.save(2, awkward())

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    from orbax.checkpoint import StandardCheckpointHandler

    with monkeypatch.context() as patch:
        patch.setattr(StandardCheckpointHandler, "async_save", full)
        patch.setattr(StandardCheckpointHandler, "save", full)
        with pytest.raises(OSError, match="No space left"):
            one.save(4, awkward())
    gc.collect()
    again = opened()
    assert again.latest() == 2
    same(again.restore(awkward())[1], awkward())
