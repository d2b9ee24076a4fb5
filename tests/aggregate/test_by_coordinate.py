"""Aggregators of a function on coordinates, and summaries whose rows are no rows any more."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import aggregate, data, models, rows, simulate, strategies
from fedjax_rec.rows import RowsUpdate
from fedjax_rec.types import Aggregator, Now, Upload


def uploads():
    """Three clients, and one that is padding, of a table of four rows and an array."""
    ids = jnp.array([[0, 1], [1, 2], [1, 4], [3, 1]])
    values = jnp.arange(1.0, 17.0).reshape(4, 2, 2)
    update = {"item": RowsUpdate(values, ids, ids < 4, None, 4), "bias": jnp.arange(4.0) ** 2}
    return Upload(update, jnp.array([1.0, 5.0, 2.0, 0.0]), {})


def test_the_median_in_one_line_is_that_of_a_loop():
    rule = aggregate.by_coordinate(lambda values: jnp.nanmedian(values, axis=0))
    summary = rule.reduce((), uploads(), Now(jnp.int32(0), (), jnp.arange(4)))
    update = rule.finish(jax.random.key(0), (), summary, None)[1]
    said = {0: [[1, 2]], 1: [[3, 4], [5, 6], [9, 10]], 2: [[7, 8]]}  # row 3 is of padding alone
    expected = [np.median(said[i], axis=0) if i in said else [0, 0] for i in range(4)]
    np.testing.assert_allclose(rows.to_dense(update)["item"], expected)
    assert update["item"].live.tolist() == [True, True, True, False]
    assert update["bias"] == 1.0


def test_a_rule_that_reduces_nothing_is_refused():
    rule = aggregate.by_coordinate(lambda values: values)
    summary = rule.reduce((), uploads(), Now(jnp.int32(0), (), jnp.arange(4)))
    with pytest.raises(ValueError, match=r"reduce the first axis, as jnp\.nanmedian"):
        rule.finish(jax.random.key(0), (), summary, None)


def summed_leaves(state, uploads, now):
    update = jax.tree.map(lambda x: x.sum(0), rows.deltas(uploads.update))
    return {"update": update, "weight": uploads.weight.sum()}


def noise_on_leaves(state, uploads, now):
    summed = rows.weighted_sum(uploads.weight, uploads.update)
    noisy = jax.tree.map(lambda x: x + 0.1, summed)
    return {"update": noisy, "weight": uploads.weight.sum()}


@pytest.mark.parametrize(
    ("reduce", "finish", "told"),
    [
        (summed_leaves, None, r"aggregator\.reduce changed the ids of rows"),
        (noise_on_leaves, None, r"aggregator\.reduce changed the ids of rows, of type float32"),
        (None, lambda x: x / 2, r"aggregator\.finish changed the ids of rows, of type float32"),
    ],
)
def test_what_changes_ids_is_refused(reduce, finish, told):
    plain = aggregate.uniform()

    def finished(key, state, summary, now):
        state, update, _ = plain.finish(key, state, summary, now)
        return state, jax.tree.map(finish, update), None

    rule = Aggregator(plain.init, reduce or plain.reduce, finished if finish else plain.finish)
    found = data.synthetic(num_users=8, num_items=300, interactions_per_user=5)
    store = data.pack(data.leave_one_out()(found), evaluation_negatives=0).store
    strategy = strategies.fedmf(models.fedmf(300, width=2), data.pointwise(1), aggregator=rule)
    with pytest.raises(ValueError, match=told):
        next(simulate.simulate(strategy, store, 1, jax.random.key(0)))
