"""Sums over chunks, of rows that are listed and of rows that are laid out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import data, models, rows, strategies
from fedjax_rec.rows import RowsUpdate
from fedjax_rec.types import Cohort

ITEMS, WIDTH, CHUNK, CHUNKS = 50, 3, 4, 5


def chunk(number: int, length: int) -> RowsUpdate:
    """What the clients of a chunk sent, `length` rows each, some of padding."""
    rng = np.random.default_rng(number)
    count = CHUNK * length
    there = rng.random(count) < 0.8
    ids = np.where(there, rng.integers(0, ITEMS, count), ITEMS).astype(np.int32)
    values = np.where(there[:, None], rng.normal(size=(count, WIDTH)), 0).astype(np.float32)
    return RowsUpdate(jnp.array(values), jnp.array(ids), jnp.array(there), None, ITEMS)


@pytest.mark.parametrize("length, listed", [(2, True), (3, False)])
def test_a_list_longer_than_the_table_is_the_table(length, listed):
    """4 clients x 5 chunks x 2 rows are 40 of 50 rows, x 3 are 60; both are the sum."""
    parts = [chunk(n, length) for n in range(CHUNKS)]
    total, lists = None, []
    for part in parts:
        adds, stacks = rows.divide({"update": part, "weight": jnp.ones(())}, True, CHUNKS)
        assert (adds["update"] is None) == listed and (stacks["update"] is None) != listed
        total = rows.combine(total, adds)
        lists.append(stacks)
    summary = rows.join(total, jax.tree.map(lambda *x: jnp.stack(x), *lists))
    assert float(summary["weight"]) == CHUNKS
    expected = np.zeros((ITEMS, WIDTH))
    for part in parts:
        inside = np.asarray(part.live)
        np.add.at(expected, np.asarray(part.ids)[inside], np.asarray(part.values)[inside])
    update = summary["update"]
    assert (update.ids is not None) == listed
    np.testing.assert_allclose(rows.to_dense(update), expected, atol=1e-5)
    if not listed:
        np.testing.assert_array_equal(update.live, (expected != 0).any(-1))


def test_a_round_holds_no_more_rows_than_the_table_has():
    """Of 500 users of some 30 items, a list of what FCF sends is 25 times its table of sums."""
    found = data.synthetic(num_users=500, num_items=600, interactions_per_user=30, seed=1)
    packed = data.pack(data.leave_one_out()(found), evaluation_negatives=0)
    model = models.fedmf(packed.num_items, width=20, scale=0.1)
    strategy = strategies.fcf(model, clients_per_chunk=4)
    key, ids = jax.random.key(0), jnp.arange(packed.num_clients)
    state = strategy.init(key, packed.num_clients)
    one = jax.jit(lambda s, d: strategy.round(key, s, Cohort(ids, d), 4)[0].shared)
    each = 4 * (20 * 21 // 2 + 21)  # bytes of a row of sums
    listed = packed.num_clients * packed.store.longest * each
    taken = one.lower(state, packed.store).compile().memory_analysis().temp_size_in_bytes
    assert taken < listed / 2
    assert taken > packed.num_items * each
