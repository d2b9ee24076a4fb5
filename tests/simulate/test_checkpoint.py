"""Checkpoints: what is restored is what was saved, to the bit; half-written ones do not count."""

import gc
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from crowd import KEY, N, crowd, factorization, packed, same, walk

from fedjax_rec.simulate import (
    Checkpoints,
    Damaged,
    load_state,
    made_of,
    save_state,
    simulate,
)
from fedjax_rec.types import State

# Threads of tensorstore find the event loop of a failed read closed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


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


def flip(file, place=0.5):
    """Another bit in the middle of a file, as a disk may have it."""
    data = bytearray(file.read_bytes())
    data[int(len(data) * place)] ^= 16
    file.write_bytes(bytes(data))


def state_of(folder, part="state"):
    """The file that holds the arrays, among those that say where they lie."""
    files = [f for f in (folder / part).rglob("d/*") if f.is_file()]
    return max(files, key=lambda f: f.stat().st_size)


DAMAGE = {
    "a flipped bit": lambda folder: flip(state_of(folder)),
    "a flipped bit in what goes with it": lambda folder: flip(state_of(folder, "extras")),
    "a flipped bit in what it says": lambda folder: flip(folder / "about" / "metadata", 0.9),
    "a truncated file": lambda folder: state_of(folder).write_bytes(b"short"),
    "a lost file": lambda folder: state_of(folder).unlink(),
    "an empty folder": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
    "all files empty": lambda folder: [
        f.write_bytes(b"") for f in folder.rglob("*") if f.is_file()
    ],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_and_one_line_where_there_is_no_other(
    opened, tmp_path, damage
):
    folder = tmp_path / "checkpoints"
    one = opened()
    values = np.random.default_rng(0).random((40, 3), np.float32)
    for step in (2, 4):
        one.save(step, awkward(), {"values": values})
    DAMAGE[damage](folder / "4")
    step, state, extras = opened().restore(awkward())
    assert step == 2 and not (folder / "4").exists()
    same(state, awkward())
    np.testing.assert_array_equal(extras["values"], values)
    # Its place is free for the same round once more.
    again = opened()
    again.save(4, awkward(), {"values": values})
    assert opened().restore(awkward())[0] == 4
    for step in (2, 4):
        DAMAGE[damage](folder / str(step))
    with pytest.raises(Damaged, match=r"round 4 is damaged.*no other is whole") as error:
        opened().restore(awkward())
    assert "\n" not in str(error.value) and (folder / "4").exists()


def test_every_single_byte_of_an_array_counts(tmp_path):
    save_state(tmp_path / "best", 3, awkward())
    file = state_of(tmp_path / "best" / "3")
    before = file.read_bytes()
    same(load_state(tmp_path / "best", 3, awkward()), awkward())
    found = 0
    for place in np.linspace(0, 0.999, 12):
        flip(file, place)
        try:
            same(load_state(tmp_path / "best", 3, awkward()), awkward())
        except Damaged as error:
            found += 1
            assert "\n" not in str(error) and "state of round 3 is damaged" in str(error)
        file.write_bytes(before)
    assert found > 6


def test_other_data_under_the_same_configuration_are_refused(opened, tmp_path):
    opened(about={"data set": "one"}).save(2, awkward())
    opened(about={"data set": "one"}).restore(awkward())
    with pytest.raises(ValueError, match=r"of another data set \(one, this one is two\).*--overw"):
        opened(about={"data set": "two"}).restore(awkward())
    assert made_of(tmp_path) == {"configuration": "abc", "data set": "one"}


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
