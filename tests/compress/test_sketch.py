"""Count sketches: hashes, the anchor of their variance, sums, medians, rows, sizes, arrival."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rounds import FIRST, now

from fedjax_rec import wire
from fedjax_rec.compress.sketch import coordinates, count_sketch, estimate, hash_words, sketch
from fedjax_rec.rows import RowsUpdate, to_dense
from fedjax_rec.wire import Live

KEY = jax.random.key(8)
FAST = {"xla_backend_optimization_level": 0}
blank = functools.partial(jax.tree.map, jnp.zeros_like)


def one_trip(compressor, update, round=0):
    """(packet, what is decoded of it)."""
    packet = compressor.encode(KEY, compressor.init(update), update, now(round))[1]
    return packet, compressor.decode(packet, blank(update), now(round))


sent = jax.jit(one_trip, static_argnums=0, compiler_options=FAST)


@functools.partial(jax.jit, static_argnums=(1, 2))
def estimates(x, rows, columns):
    """[64, d]: the estimates of every coordinate, from sketches of 64 rounds."""
    where = jnp.arange(x.size, dtype=jnp.uint32)

    def one(round):
        words = hash_words(0, round, rows)
        return estimate(sketch(x, where, words, columns), where, words)

    return jax.lax.map(one, jnp.arange(64))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_row_variance_is_the_anchor():
    """(|x|^2 - x_i^2) / c: 12.5 for |x|^2 = 12.5 c, and unbiased in every coordinate."""
    columns, d = 256, 3200
    x = normal(d)
    x *= np.sqrt(12.5 * columns / (x @ x))
    off = np.asarray(estimates(jnp.float32(x), 1, columns), np.float64) - x
    formula = ((x @ x) - x**2).mean() / columns
    assert formula == pytest.approx(12.5, rel=0.001)
    assert (off**2).mean() == pytest.approx(formula, rel=0.03)
    z = off.mean(0) / (np.sqrt(((x @ x) - x**2) / columns / 64))
    assert abs(z.mean()) < 5 / d**0.5 and z.std() == pytest.approx(1, abs=0.1)


def test_the_median_is_not_moved_by_a_few_heavy_coordinates():
    """Of 5 rows: a heavy coordinate spoils single rows, seldom three of them at a time."""
    x = 0.01 * normal(2000)
    x[::200] = 100.0
    rest = np.abs(x) < 1
    off = [np.asarray(estimates(jnp.float32(x), rows, 256)) - x for rows in (1, 5)]
    spoilt = [(np.abs(o[:, rest]) > 10).mean() for o in off]
    share = 1 - (1 - 1 / 256) ** 10
    assert spoilt[0] == pytest.approx(share, rel=0.2)
    assert spoilt[1] < 10 * share**3 * 2
    assert np.abs(off[1][:, ~rest]).max() < 110  # and heavy ones are found


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 8])
def test_estimates_are_the_median_of_rows(rows):
    """Against NumPy, with the hashes read off the sketches of single coordinates."""
    d, columns = 40, 16
    where, words = jnp.arange(d, dtype=jnp.uint32), hash_words(1, 0, rows)
    tables = np.asarray(jax.vmap(lambda x: sketch(x, where, words, columns))(jnp.eye(d)))
    assert ((tables != 0).sum(2) == 1).all() and set(np.unique(tables)) == {-1.0, 0.0, 1.0}
    x = normal(d)
    table = (tables * x[:, None, None]).sum(0)
    np.testing.assert_allclose(sketch(jnp.float32(x), where, words, columns), table, atol=1e-5)
    rowwise = (tables * table).sum(2)
    found = estimate(jnp.float32(table), where, words)
    np.testing.assert_allclose(found, np.median(rowwise, 1), atol=1e-5)


def test_hashes_fill_columns_and_signs_evenly_and_rows_are_independent():
    d, columns = 2**16, 64
    where, words = jnp.arange(d, dtype=jnp.uint32), hash_words(3, 0, 2)
    count = np.asarray(sketch(jnp.ones(d), where, words, columns))
    assert (count**2).mean() == pytest.approx(d / columns, rel=0.5)  # a sum of d / c signs
    seen = np.stack(
        [
            np.asarray(estimate(jnp.float32([np.arange(columns)]), where, words[r : r + 1]))
            for r in (0, 1)
        ]
    )
    first, second = np.abs(seen).astype(int)
    table = np.histogram2d(first, second, bins=columns)[0]
    chi = ((table - d / columns**2) ** 2 / (d / columns**2)).sum()
    assert abs(chi - columns**2) < 6 * np.sqrt(2 * columns**2)


def gathered(x, ids, size, slots) -> RowsUpdate:
    dead = slots - len(ids)
    values = jnp.float32(np.concatenate([x, np.zeros((dead, x.shape[1]))]))
    ids = jnp.int32([*ids, *[size] * dead])
    return RowsUpdate(values, ids, jnp.arange(slots) < slots - dead, None, size)


def test_sketches_of_clients_add_up_whatever_rows_they_touched():
    """Rows gathered or in the whole table: a coordinate is its id and column, so sums are sums."""
    compressor = count_sketch(3, 32)
    a, b = normal(4, 8), normal(6, 8, seed=1)
    few = gathered(a, [3, 9, 20, 49], 50, 13)
    table, live = np.zeros((50, 8)), np.isin(np.arange(50), [0, 3, 9, 10, 20, 49])
    table[live] = b
    whole = RowsUpdate(jnp.float32(table), None, jnp.asarray(live), None, 50)
    both = RowsUpdate(to_dense(few) + table, None, jnp.asarray(live), None, 50)
    bodies = [np.asarray(sent(compressor, x)[0].body) for x in (few, whole, both)]
    assert bodies[0].shape == (3, 32)
    np.testing.assert_allclose(bodies[0] + bodies[1], bodies[2], atol=1e-5)


def test_few_coordinates_in_many_columns_come_back():
    """Without collisions in most rows the median is exact; untouched rows stay zero."""
    update = {
        "item": gathered(normal(3, 64), [7, 8, 41], 50, 90),
        "whole": RowsUpdate(
            jnp.float32(np.where(np.arange(90)[:, None] == 17, normal(90, 64), 0)),
            None, jnp.arange(90) == 17, None, 90,
        ),
        "blocks": Live(
            jnp.float32(np.where(np.arange(90)[:, None] == 5, normal(90, 64), 0)),
            jnp.arange(90) == 5,
        ),
        "small": jnp.float32(normal(20)),
        "scalar": jnp.float32(1.5),
    }  # fmt: skip
    packet, back = sent(count_sketch(5, 1100), update)
    x = np.asarray(to_dense(update["item"]))
    off = np.abs(np.asarray(to_dense(back["item"])) - x)
    assert np.quantile(off[[7, 8, 41]], 0.95) < 1e-6
    assert not off[np.setdiff1d(np.arange(50), [7, 8, 41])].any()
    for name, row in (("whole", 17), ("blocks", 5)):
        values = np.asarray(back[name].values)
        assert (np.abs(values[row] - update[name].values[row]) < 1e-6).mean() > 0.98
        assert not np.delete(values, row, 0).any()
    for name in ("small", "scalar"):
        np.testing.assert_array_equal(back[name], update[name])
    data = wire.to_bytes(packet)
    assert len(data) == int(wire.nbytes(packet))
    assert len(data) == pytest.approx(3 * 4 * 5 * 1100, rel=0.01)
    arrived = jax.tree.map(jnp.asarray, wire.from_bytes(data, packet))
    decode = jax.jit(count_sketch(5, 1100).decode, compiler_options=FAST)
    received = decode(arrived, blank(update), FIRST)
    for name in ("item", "whole"):
        np.testing.assert_allclose(to_dense(received[name]), to_dense(back[name]), atol=1e-6)
    np.testing.assert_allclose(received["blocks"].values, back["blocks"].values[5:6], atol=1e-6)


def test_hashes_are_new_in_every_round_so_that_means_improve():
    x = jnp.float32(normal(500))
    compressor = count_sketch(1, 100)
    backs = [np.asarray(sent(compressor, x, t)[1]) for t in range(30)]
    single = np.mean([((b - x) ** 2).sum() for b in backs])
    assert ((np.mean(backs, 0) - x) ** 2).sum() == pytest.approx(single / 30, rel=0.2)


@pytest.mark.parametrize("factor", [0.0, 1e-40, 1e20])
def test_extreme_numbers(factor):
    x = jnp.float32(factor * np.ones(200))
    back = np.asarray(sent(count_sketch(3, 20), x)[1])
    assert np.isfinite(back).all() and (factor > 1e-30 or not back.any())
    none = gathered(np.zeros((0, 8)), [], 50, 13)
    assert not np.asarray(sent(count_sketch(3, 20), none)[1].values).any()


def test_coordinates_of_dense_arrays_are_their_places():
    np.testing.assert_array_equal(coordinates(jnp.zeros((3, 2, 2))), np.arange(12).reshape(3, 2, 2))


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"count_sketch\(rows=0\).*use rows >= 1"):
        count_sketch(rows=0)
    with pytest.raises(ValueError, match=r"count_sketch\(columns=0\)"):
        count_sketch(columns=0)
