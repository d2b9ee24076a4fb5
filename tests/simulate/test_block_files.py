"""What several processes write together, read by one: here one writes the blocks of both.

`tests/laws/test_processes.py` has two real processes.
"""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from fedjax_rec import simulate
from fedjax_rec.simulate.block_files import BLOCKS, ENDS, _Files, _write, joined, tidied, written
from fedjax_rec.simulate.seal import Damaged, crc32
from fedjax_rec.simulate.spread import Blocks, Filed, Spread, blocks_of, long_rows, nobodys, spread
from fedjax_rec.types import State

# Threads of tensorstore find the event loop of a failed read closed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
RNG = np.random.default_rng(0)


def blocks(x: np.ndarray, cut: int) -> Blocks:
    """Rows up to `cut`, and the others."""
    spans = np.array([[0, 0, cut], [0, cut, len(x)]], np.int64)
    return Blocks(x.shape, x.dtype, spans, {0: x[:cut], cut: x[cut:]})


def by_two(folder, round, arrays: dict, cut: int) -> dict:
    """The leaves that the first of two processes writes, of which both wrote their blocks."""
    leaves = written(folder, round, {name: blocks(x, cut) for name, x in arrays.items()})
    place = folder / "blocks" / str(round)
    second = [{cut: arrays[name][cut:]} for name in sorted(arrays)]
    _write(place / "1", second)
    for i, name in enumerate(sorted(arrays)):
        (place / "0" / f"{i}-{cut}.npy").unlink()
        leaves[name + BLOCKS][1, 0] = 1
    return leaves


def first() -> State:
    """Of 23 clients."""
    user = jnp.asarray(RNG.standard_normal((23, 1, 4)), jnp.float32)
    return State({"item": jnp.ones((5, 4))}, {"user": user}, (), {}, jnp.int32(0))


def split(state: State) -> State:
    """The clients of one process and of another."""
    of_both = jax.tree.map(lambda x: blocks(np.asarray(x), 12), state.private)
    return dataclasses.replace(state, private=of_both)


@pytest.mark.parametrize("dtype", ["float32", "int8", "bool", "uint32", ml_dtypes.bfloat16])
def test_blocks_come_back_as_they_were(dtype, tmp_path):
    x = RNG.integers(0, 2, (7, 3)).astype(dtype)
    y = RNG.standard_normal((7, 2, 2)).astype(np.float32)
    leaves = by_two(tmp_path, 5, {"b": y, "a": x}, 4)
    found = joined(tmp_path, 5, {**leaves, "c": np.ones(2)})
    assert set(found) == {"a", "b", "c"} and found["a"].dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found["a"], x)
    np.testing.assert_array_equal(found["b"], y)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda file: file.unlink(), "is not there"),
        (lambda file: file.write_bytes(file.read_bytes()[:-4]), "is not there"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1] + b"!"), "another checksum"),
        (lambda file: np.save(file, np.zeros((2, 3), np.float32)), "another shape"),
    ],
)
def test_damage_is_told(harm, told, tmp_path):
    x = RNG.standard_normal((7, 3)).astype(np.float32)
    leaves = by_two(tmp_path, 5, {"a": x}, 4)
    harm(tmp_path / "blocks" / "5" / "1" / "0-4.npy")
    with pytest.raises(Damaged, match=f"what process 1 wrote of a .*{told}"):
        joined(tmp_path, 5, leaves)


def test_rows_are_read_where_they_are_asked_for(tmp_path):
    x = RNG.standard_normal((7, 3)).astype(np.float32)
    leaves = by_two(tmp_path, 5, {"a": x}, 4)
    files = _Files(tmp_path / "blocks" / "5", 0, "a", *(leaves["a" + end] for end in ENDS))
    filed = files.filed()
    assert (filed.shape, filed.dtype, filed.ndim, filed.size) == ((7, 3), np.float32, 2, 21)
    np.testing.assert_array_equal(filed[2:6, 1:], x[2:6, 1:])
    np.testing.assert_array_equal(np.asarray(filed), x)
    # Filled up to eight rows, as two devices of four would have them.
    np.testing.assert_array_equal(long_rows(filed, (slice(4, 8), slice(None)), 8)[:3], x[4:])
    np.testing.assert_array_equal(long_rows(filed, (slice(4, 8), slice(None)), 8)[3], x[0])
    np.testing.assert_array_equal(long_rows(x, (slice(8, 10), slice(None)), 10), x[[0, 0]])
    shutil.rmtree(tmp_path / "blocks" / "5" / "1")
    np.testing.assert_array_equal(filed[:4], x[:4])
    with pytest.raises(Damaged, match="process 1"):
        filed[3:5]


def test_a_state_whose_writers_were_killed_is_not_there(tmp_path):
    """Blocks alone are no checkpoint; the one before is whole, and the next save tidies up."""
    state = first()
    later = jax.tree.map(lambda x: x + 1, state)
    folder = simulate.Checkpoints(tmp_path, "it", keep=1)
    folder.save(2, split(state), {"x": np.ones(1)})
    written(tmp_path, 4, {".private['user']": split(later).private["user"]})  # and killed
    assert simulate.last_saved(tmp_path) == folder.latest() == 2
    round, found, extras = folder.restore(state)
    assert (round, extras["x"]) == (2, 1)
    jax.tree.map(np.testing.assert_array_equal, found, state)
    folder.save(4, split(later))
    folder.close()
    assert sorted(p.name for p in (tmp_path / "blocks").iterdir()) == ["4"]
    again = simulate.load_state(tmp_path, 4, state)
    jax.tree.map(np.testing.assert_array_equal, again, later)
    # A damaged block is a damaged checkpoint.
    (tmp_path / "blocks" / "4" / "0" / "0-0.npy").unlink()
    with pytest.raises(Damaged, match=r"of round 4 is damaged: what process 0 wrote of .private"):
        simulate.load_state(tmp_path, 4, state)


def test_a_damaged_block_costs_the_rounds_since_the_checkpoint_before(tmp_path):
    state = first()
    apart = split(state)
    folder = simulate.Checkpoints(tmp_path, "it")
    for round in (2, 4):
        folder.save(round, apart)
    (tmp_path / "blocks" / "4" / "0" / "0-12.npy").unlink()
    assert folder.restore(state)[0] == 2
    folder.close()
    assert sorted(p.name for p in (tmp_path / "blocks").iterdir()) == ["2"]


def test_a_best_state_in_blocks(tmp_path):
    state = first()
    apart = split(state)
    for round in (3, 7):
        simulate.save_state(tmp_path / "best", round, apart, like=state)
    assert sorted(p.name for p in (tmp_path / "best").iterdir()) == ["7", "blocks"]
    assert [p.name for p in (tmp_path / "best" / "blocks").iterdir()] == ["7"]
    found = simulate.parameters(tmp_path)
    np.testing.assert_array_equal(found.private["['user']"], state.private["user"])
    # What one process writes next has no blocks.
    simulate.save_state(tmp_path / "best", 8, state)
    assert [p.name for p in (tmp_path / "best").iterdir()] == ["8"]
    tidied(tmp_path / "best")


def test_what_stands_for_an_array():
    mesh = simulate.clients_mesh(2)
    assert mesh is not None
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    there = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("clients"))
    array = jax.device_put(x, there)
    three = spread(array, (3, 3))
    assert isinstance(three, Spread) and spread(array, (4, 3)) is array
    assert (three.shape, three.dtype, three.ndim, three.size) == ((3, 3), np.float32, 2, 9)
    found = blocks_of(three)
    assert found is not None and found.spans.tolist() == [[0, 0, 2], [0, 2, 3]]
    np.testing.assert_array_equal(found.own[2], x[2:3])
    np.testing.assert_array_equal(simulate.gathered(three.copy().array), x)
    across = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "clients"))
    assert blocks_of(jax.device_put(x[:, :2], across)) is None
    assert nobodys(three).shape == (1, 3) and nobodys(x) is x
    assert nobodys(Filed((5, 2), np.dtype(np.int8), lambda a, b: x)).dtype == np.int8
    assert crc32(found.copy().own[0]) == crc32(x[:2]) and jnp.ndim(array) == 2
