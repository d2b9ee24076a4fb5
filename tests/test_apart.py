"""Rows of a table on several devices: what comes is what was asked for, what goes home is added."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from fedjax_rec import rows, simulate
from fedjax_rec.rows.apart import brought_home

pytestmark = pytest.mark.usefixtures("compiled_fast")
ITEMS, D, R = 40, 3, 4
AXES = ("clients", rows.AXIS)


def on_devices(each, *args, out):
    """each(block, *args of this device), of a table in blocks and args [R, ...], one a device."""
    table, *rest = args
    mesh = simulate.clients_mesh(R, R)
    assert mesh is not None
    split, blocks = PartitionSpec(AXES), PartitionSpec(rows.AXIS)
    own = lambda block, *mine: each(block, *(x[0] for x in mine))
    specs = (blocks, *(split for _ in rest))
    return jax.jit(jax.shard_map(own, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False))(
        table, *rest
    )


def a_table(dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(0).normal(size=(ITEMS, D)), dtype)


ASKED = {
    "evenly": np.arange(4 * 10).reshape(4, 10) * 7 % ITEMS,
    "of one owner": np.full((4, 10), 3) + np.arange(10) % 5,
    "often": np.full((4, 7), ITEMS - 1),
    "one": np.array([[0], [39], [12], [12]]),
    "some are none": np.random.default_rng(1).integers(-9, ITEMS + 9, (4, 23)),
}


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rows_come_to_the_bit(name, dtype):
    ids, table = jnp.asarray(ASKED[name], jnp.int32), a_table(dtype)
    read = lambda block, ids: rows.here(rows.Apart(block), rows.LocalTable(0, ids, 0))
    table_of = lambda block: rows.Table(rows.Apart(block), ("items",))
    local = lambda block, ids: (table_of(block)[ids][None], read(block, ids)[None])
    split = PartitionSpec(AXES)
    given, kept = on_devices(local, table, ids, out=(split, split))
    known = np.asarray(table, np.float32)[np.clip(ids, 0, ITEMS - 1)]
    want = np.where(((ids >= 0) & (ids < ITEMS))[..., None], known, 0)
    np.testing.assert_array_equal(np.asarray(given), want)
    np.testing.assert_array_equal(np.asarray(kept, np.float32), want)
    assert given.dtype == jnp.float32  # clients train in it


def test_each_client_of_a_chunk_asks_for_its_own():
    """Under `vmap` clients of a device need unlike numbers of trips."""
    ids = np.stack([np.arange(16).reshape(2, 8) % 9, np.arange(16).reshape(2, 8) * 5 % ITEMS] * 2)
    ids[1:, 1] = 0
    values = lambda block, ids: jax.vmap(lambda mine: rows.Apart(block)[mine])(ids)[None]
    found = on_devices(values, a_table(), jnp.asarray(ids), out=PartitionSpec(AXES))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(a_table())[ids])


@pytest.mark.parametrize("name", ASKED)
def test_what_goes_home_is_added_to_its_rows(name):
    ids, rng = ASKED[name], np.random.default_rng(2)
    values = rng.normal(size=(*ids.shape, D)).astype(np.float32)
    real = (ids >= 0) & (ids < ITEMS) & (rng.random(ids.shape) < 0.8)

    def home(block, ids, values, live):
        more = rows.RowsUpdate(values, ids, live, None, ITEMS)
        return brought_home(block, jnp.zeros(block.shape[0], bool), more)

    args = (jnp.asarray(x) for x in (ids.astype(np.int32), values, real))
    blocks = PartitionSpec(rows.AXIS)
    total, live = on_devices(home, a_table(), *args, out=(blocks, blocks))
    want = np.array(a_table(), np.float64)
    np.add.at(want, ids[real], values[real])
    np.testing.assert_allclose(np.asarray(total), want, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(live), np.isin(np.arange(ITEMS), ids[real]))


WHOLE = {
    "slice": lambda x: x[:],
    "sum": jnp.sum,
    "plus": lambda x: x + 1,
    "local": lambda x: rows.whole(rows.Table(x)).values,
    "cast": lambda x: x.astype(jnp.float32),
    "transposed": lambda x: x.T,
    "argument": jax.jit(lambda x: x),
}


@pytest.mark.parametrize("name", WHOLE)
def test_nobody_gets_the_whole_of_it(name):
    """And a strategy that wants it is told in one line, before anything runs."""

    def own(block):
        with rows.row_by_row():
            return WHOLE[name](rows.Apart(block))

    line = r"^a client reads a table whole whose rows lie on 4 devices: .*; use row_devices=1\."
    with pytest.raises(ValueError, match=line):
        on_devices(own, a_table(), out=PartitionSpec(rows.AXIS))


def test_who_would_wait_for_ever_is_refused():
    """A loop whose length is the device's own, and a branch; not what all do alike."""

    def looping(block, n):
        more = lambda i, x: x + rows.Apart(block)[jnp.arange(3)].sum()
        return jax.lax.fori_loop(0, n, more, 0.0)

    def branching(block, n):
        asking = lambda: rows.Apart(block)[jnp.arange(3)].sum()
        return jax.lax.cond(n > 1, asking, lambda: jnp.float32(0))

    def alike(block, n):
        return rows.Apart(block)[jnp.arange(3) + n].sum()

    def looked_at(step):
        def own(block, n):
            rows.refuse_waiting(step, block, n)
            return step(block, n)[None]

        return on_devices(own, a_table(), jnp.arange(R), out=PartitionSpec(AXES))

    for step in (looping, branching):
        with pytest.raises(ValueError, match=r"would wait for each other; use row_devices=1\."):
            looked_at(step)
    assert looked_at(alike).shape == (R,)
