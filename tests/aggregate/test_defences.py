"""What single rules promise: quorum's threshold, HiCS's memory, UNION's filter, and medians that
find what sorting finds."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from robust_world import ITEMS, WIDTH, flat, made, uploads

from fedjax_rec import aggregate
from fedjax_rec.aggregate.blocks import blocks, touches
from fedjax_rec.aggregate.gram import gram
from fedjax_rec.aggregate.listed import listed
from fedjax_rec.aggregate.touched import Groups, median_of
from fedjax_rec.aggregate.trimmed_mean import without_ends
from fedjax_rec.aggregate.union import _apart, _spreads
from fedjax_rec.rows import RowsUpdate

pytestmark = pytest.mark.usefixtures("compiled_fast")


def liars_on_one_row(liars: int, size: float = 50.0):
    """Uploads in which some push a row that nobody else touches, by ids."""
    upload = uploads("ids", absent=())
    item = upload.update["item"]
    values, ids, live = (np.array(x) for x in (item.values, item.ids, item.live))
    for k in range(liars):
        values[k], ids[k], live[k] = 0, ITEMS, False
        values[k, 0], ids[k, 0], live[k, 0] = size, ITEMS - 1, True
    upload.update["item"] = RowsUpdate(*map(jnp.asarray, (values, ids, live)), None, ITEMS)
    return upload


def last_row(rule, upload) -> float:
    update = np.asarray(made(rule, upload)[1])
    return float(np.linalg.norm(update[(ITEMS - 1) * WIDTH : ITEMS * WIDTH]))


def test_a_quorum_stays_where_f_agree_and_moves_by_those_who_are_more():
    """The row of three liars is left by f = 3, and moved by one clipped step by f = 2."""
    upload = liars_on_one_row(3)
    assert last_row(aggregate.quorum(3), upload) < 1e-6
    one = last_row(aggregate.quorum(2), upload)
    np.testing.assert_allclose(last_row(aggregate.quorum(0), upload), 3 * one, rtol=1e-4)
    assert 0 < one < 1
    np.testing.assert_allclose(last_row(aggregate.quorum(2), liars_on_one_row(3, 1e9)), one)


def test_what_is_not_applied_is_remembered_and_then_applied():
    """Over rounds of the same uploads HiCS moves in all what it clipped, less what it holds."""
    rule, upload = aggregate.hics(1.5, 0.2), uploads("whole")
    every = np.asarray(made(aggregate.hics(1.5, 1.0), upload)[1])
    state, moved, rounds = None, 0.0, 6
    for _ in range(rounds):
        state, update, _ = made(rule, upload, state)
        table = np.asarray(update)[: ITEMS * WIDTH].reshape(ITEMS, WIDTH)
        assert np.count_nonzero(table.any(1)) == 4
        moved = moved + table
    held = np.asarray(state[0])
    assert np.abs(held).max() > 0.01
    wanted = rounds * every[: ITEMS * WIDTH].reshape(ITEMS, WIDTH)
    np.testing.assert_allclose(moved + held, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", ["whole", "ids"])
def test_union_knows_how_far_items_lie_apart(layout):
    draw, at = np.random.default_rng(2), jnp.int32([3, 0, 7, 11])
    table = draw.normal(size=(ITEMS, WIDTH))
    upload = uploads(layout, absent=())
    update = flat(upload)[0][:, : ITEMS * WIDTH].reshape(-1, ITEMS, WIDTH)
    found = _spreads(jnp.float32(table)[at], upload.update["item"], at, 2.0)
    for k, u in enumerate(update):
        q = (table + 2 * u)[np.asarray(at)]
        apart = [np.linalg.norm(a - b) for a, b in itertools.combinations(q, 2)]
        np.testing.assert_allclose(found[k], np.mean(apart), rtol=1e-5)


def test_union_cuts_where_two_clusters_are_tightest():
    """Against every cut, and it takes the smaller part where there are two, and else nobody."""
    draw = np.random.default_rng(0)
    there = jnp.arange(40) != 5
    apart = jax.jit(lambda x, f: _apart(jax.random.key(0), x, there, f, 50))
    two = draw.normal(0, 0.02, 40) + np.where(np.arange(40) < 5, 1.0, 0)
    assert np.flatnonzero(apart(jnp.float32(two), 0)).tolist() == [0, 1, 2, 3, 4]
    one = draw.uniform(size=40)
    assert not np.asarray(apart(jnp.float32(one), 0)).any()
    out = np.flatnonzero(apart(jnp.float32(one), 40))
    real = np.flatnonzero(there)
    order = real[np.argsort(one[real])]
    cost = lambda x: ((x - x.mean()) ** 2).sum()
    cuts = [cost(one[order[:c]]) + cost(one[order[c:]]) for c in range(1, len(order))]
    cut = int(np.argmin(cuts)) + 1
    smaller = min(order[:cut], order[cut:], key=len)
    assert sorted(out) == sorted(smaller)
    assert not np.asarray(apart(jnp.ones(40), 3)).any()  # all alike


def test_union_leaves_out_who_gathers_items():
    """Two of twelve send every row they touch to one point; the others' mean is what is left."""
    upload = uploads("whole", absent=())
    item = upload.update["item"]
    values = np.array(item.values)
    values[[0, 7]] = 100.0 * np.sign(np.arange(ITEMS) % 3 - 1)[:, None]
    live = np.array(item.live)
    live[[0, 7]] = True
    upload.update["item"] = RowsUpdate(jnp.asarray(values), None, jnp.asarray(live), None, ITEMS)
    rule = aggregate.union(items=ITEMS)
    _, update, verdicts = made(rule, upload)
    assert np.flatnonzero(np.asarray(verdicts) == 0).tolist() == [0, 7]
    honest = np.delete(flat(upload)[0], [0, 7], 0).mean(0)
    np.testing.assert_allclose(update, honest, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_the_smallest_are_found_as_by_sorting(n):
    """With ties, zeros of both signs, denormals, and some that said nothing."""
    draw = np.random.default_rng(n)
    values = draw.choice(
        np.float32([-1e12, -2, -1, -1e-40, -0.0, 0.0, 1e-40, 1, 1, 3e10]), (9, 4, n)
    )
    values += np.where(draw.random(values.shape) < 0.3, draw.normal(size=values.shape), 0)
    there = draw.random((9, 1, n)) < 0.8
    there[..., 0] = True
    values = np.where(there, values, 0)
    both = lambda values, there: (
        median_of(Groups(values, there)),
        without_ends(Groups(values, there), 1),
    )
    middle, trimmed = map(
        np.asarray, jax.jit(both)(*(jnp.moveaxis(x, -1, 0) for x in (jnp.float32(values), there)))
    )
    for g, d in np.ndindex(9, 4):
        said = np.sort(np.float32(values[g, d][there[g, 0]]))
        np.testing.assert_allclose(middle[g, d], np.median(np.float64(said)), rtol=1e-6, atol=1e-38)
        if len(said) > 2:
            wanted = np.float64(said)[1:-1].mean()
            np.testing.assert_allclose(
                trimmed[g, d], wanted, rtol=1e-5, atol=1e-38 + 1e-6 * np.abs(said[1:-1]).max()
            )


@pytest.mark.parametrize("room", [1, 40, 10**6])
def test_blocks_are_the_table_and_products_are_those_of_it(room):
    """Whatever a block holds, and of rows that were asked for alone."""
    upload = uploads("ids")
    sent = listed(upload, type("", (), {"client": jnp.arange(12)}))
    item = sent.update["item"]
    x = flat(upload)[0]
    real = np.flatnonzero(np.asarray(upload.weight) > 0)
    table = np.zeros((12, ITEMS, WIDTH))
    table[real] = x[:, : ITEMS * WIDTH].reshape(-1, ITEMS, WIDTH)
    wanted = np.asarray(touches(item)) > 5
    some = blocks(item, jnp.asarray(wanted), room)
    rows_of = np.flatnonzero(wanted)
    assert some.ids[: len(rows_of)].tolist() == rows_of.tolist() and int(some.count) == len(rows_of)
    for first in range(0, len(rows_of), some.room):
        values, said = some.at(first)
        here = rows_of[first : first + some.room]
        np.testing.assert_allclose(values[:, : len(here)], table[:, here], rtol=1e-6)
        assert not np.asarray(said)[:, len(here) :].any()
    np.testing.assert_allclose(gram(sent.update)[np.ix_(real, real)], x @ x.T, rtol=1e-5, atol=1e-5)
