"""A table inside a loss answers to any ids of its batch, and its gradient is that of the array.

Every loss here is written once; the model that has a table of rows and the one that has a plain
array have to agree on its value and on all of its gradients.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec import rows
from fedjax_rec.clients.gradient import value_and_gradient
from fedjax_rec.rows.fields import Derived, ids_of
from fedjax_rec.types import Model

ITEMS, WIDTH, BATCH = 20, 3, 8
rng = np.random.default_rng(0)
VALUES = jnp.float32(rng.normal(size=(ITEMS, WIDTH)))
USER = jnp.float32(rng.normal(size=WIDTH))
BIAS = jnp.float32(rng.normal(size=ITEMS))
ITEMS_OF = jnp.int32([3, 7, 3, 0, 19, 7, 11, 3])  # ids repeat
BATCHES = {
    "items": ITEMS_OF,
    "labels": jnp.float32(rng.integers(0, 2, BATCH)),
    "mask": jnp.float32([1, 1, 1, 1, 1, 1, 0, 1]),
}


def of_examples(shared, private, batch):
    """float[...]: by example; `bias` is a plain array beside the table, indexed by the same ids."""
    rows_of = shared["item"][batch["items"]]
    score = rows_of @ private["user"] + shared["bias"][batch["items"]]
    return batch["mask"] * (score - batch["labels"]) ** 2


def plain(shared, private, batch, key):
    return of_examples(shared, private, batch).mean()


def sliced(shared, private, batch, key):
    half = BATCH // 2
    first = shared["item"][batch["items"][:half]]
    return (of_examples(shared, private, batch)).mean() + jnp.tanh(first @ private["user"]).sum()


def permuted(shared, private, batch, key):
    order = jax.random.permutation(key, BATCH)
    batch = jax.tree.map(lambda x: x[order], batch)
    return (jnp.arange(BATCH) * of_examples(shared, private, batch)).sum()


def by_example(shared, private, batch, key):
    return jax.vmap(of_examples, in_axes=(None, None, 0))(shared, private, batch).mean()


def by_example_over_batch_alone(shared, private, batch, key):
    return jax.vmap(lambda example: of_examples(shared, private, example))(batch).mean()


def norms_of_examples(shared, private, batch, key):
    """A penalty on the gradient of every example, by everything that is trained."""
    gradient = jax.grad(of_examples, argnums=(0, 1))
    each = jax.vmap(gradient, in_axes=(None, None, 0))(shared, private, batch)
    # Of a table it is that of the gathered rows, of which each example has its own.
    square = [(x**2).sum(range(1, x.ndim)) for x in jax.tree.leaves(each)]
    return plain(shared, private, batch, key) + 0.1 * jnp.sqrt(1 + sum(square)).sum()


def checkpointed(shared, private, batch, key):
    return jax.checkpoint(permuted)(shared, private, batch, key)


def checkpointed_over_batch_alone(shared, private, batch, key):
    return jax.checkpoint(lambda batch: plain(shared, private, batch, key))(batch)


def jitted(shared, private, batch, key):
    return jax.jit(permuted)(shared, private, batch, key)


def in_microbatches(shared, private, batch, key):
    """A scan over quarters of the batch, with a carry that the next one meets."""
    quarters = jax.tree.map(lambda x: x.reshape(4, -1, *x.shape[1:]), batch)

    def one(total, batch):
        loss = of_examples(shared, private, batch).sum()
        return jnp.tanh(total + loss), loss

    total, each = jax.lax.scan(one, 0.0, quarters)
    return total + each.mean()


def stopped(shared, private, batch, key):
    """What maps over the arrays of `shared`, as a mixture of two models does."""
    still = jax.tree.map(jax.lax.stop_gradient, shared)
    mixed = jax.tree.map(lambda x, y: 0.25 * x + 0.75 * y, shared, still)
    return plain(mixed, private, batch, key)


def in_a_branch(shared, private, batch, key):
    small = lambda shared: plain(shared, private, batch, key)
    other = lambda shared: permuted(shared, private, batch, key)
    return jax.lax.cond(batch["labels"].sum() > 100, small, other, shared)


LOSSES = [
    plain, sliced, permuted, by_example, by_example_over_batch_alone, norms_of_examples,
    checkpointed, checkpointed_over_batch_alone, jitted, in_microbatches, stopped, in_a_branch,
]  # fmt: skip


def of_array(loss, batch, values=VALUES, key=None):
    """(value, {"item", "bias", "user"} gradients) of the model with a plain array."""

    def whole(item, bias, user):
        return loss({"item": item, "bias": bias}, {"user": user}, batch, key)

    value, (item, bias, user) = jax.value_and_grad(whole, (0, 1, 2))(values, BIAS, USER)
    return value, {"item": item, "bias": bias, "user": user}


def of_table(loss, batch, layout="whole", fields=("items",), key=None):
    """The same of a client that has the touched rows only."""
    table = rows.Table(VALUES, fields)
    named = jnp.concatenate([ids_of(f, batch).reshape(-1) for f in fields])
    local = rows.whole(table) if layout == "whole" else rows.localize(table, named)
    params = {"shared": {"item": local, "bias": BIAS}, "private": {"user": USER}}
    model = Model(lambda key, common=None: ({}, {}), loss)

    @jax.jit
    def gradient(batch, key):
        shared = {"item": table, "bias": BIAS}
        return value_and_gradient(model, lambda path: True, params, shared, batch, key)

    value, gradients = gradient(batch, key)
    g = gradients["shared"]["item"]
    ids = g.slots if local.ids is None else local.ids[g.slots]
    item = jnp.zeros_like(VALUES).at[ids].add(g.values)
    return value, {
        "item": item, "bias": gradients["shared"]["bias"], "user": gradients["private"]["user"],
    }  # fmt: skip


def assert_same(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-6), a, b)


@pytest.mark.parametrize("layout", ["whole", "touched"])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
def test_any_loss_of_a_table_is_the_loss_of_the_array(loss, layout):
    key = jax.random.key(3)
    got, want = of_table(loss, BATCHES, layout, key=key), of_array(loss, BATCHES, key=key)
    assert float(want[0]) != 0 and all(float(jnp.abs(g).max()) > 0 for g in want[1].values())
    assert_same(got, want)


@pytest.mark.parametrize("loss", [permuted, by_example, in_microbatches], ids=lambda f: f.__name__)
def test_clients_under_vmap_find_their_own_rows(loss):
    """The engine's `vmap` over clients, each with a batch of its own."""
    items = jnp.int32(np.random.default_rng(1).integers(0, ITEMS, (3, BATCH)))
    key = jax.random.key(0)
    many = jax.vmap(lambda i: of_table(loss, {**BATCHES, "items": i}, "touched", key=key))(items)
    for k in range(3):
        want = of_array(loss, {**BATCHES, "items": items[k]}, key=key)
        assert_same(jax.tree.map(lambda x, k=k: x[k], many), want)


def of_pairs(shared, private, batch, key):
    """Two fields of a table, of unequal shape, read as one array and by turns."""
    both = jnp.concatenate([batch["items"][:, None], batch["drawn"]], 1)
    scores = shared["item"][both] @ private["user"] + shared["bias"][both]
    one = lambda up, down: shared["item"][up] @ shared["item"][down].sum(0)
    return jnp.tanh(scores).sum() + jax.vmap(one)(batch["items"], batch["drawn"]).sum()


def test_several_fields_are_one_table():
    drawn = jnp.int32(np.random.default_rng(2).integers(0, ITEMS, (BATCH, 2)))
    batch = {**BATCHES, "drawn": drawn}
    got = of_table(of_pairs, batch, "touched", ("items", "drawn"))
    assert_same(got, of_array(of_pairs, batch))


class Halves:
    """Two rows an id, that of its half and one behind them."""

    def __call__(self, ids):
        return jnp.stack([ids // 2, 10 + ids % 5], -1)

    def __eq__(self, other):
        return isinstance(other, Halves)

    def __hash__(self):
        return 7


def test_derived_ids_are_looked_up_as_rows():
    """An id of the data names two rows; in any order, and for an example alone."""

    def loss(table):
        def total(shared, private, batch, key):
            order = jax.random.permutation(key, BATCH)
            some = table(shared["item"], batch["items"][order])
            one = jax.vmap(lambda i: table(shared["item"], i))(batch["items"])
            user = private["user"]
            a = some[..., 0, :] * some[..., 1, :] @ user + shared["bias"][batch["items"]]
            return (jnp.arange(BATCH) * jnp.tanh(a)).sum() + (one[:, 0] * one[:, 1] @ user).sum()

        return total

    key = jax.random.key(1)
    derived = (Derived("items", Halves(), 2),)
    got = of_table(loss(lambda table, i: table[i]), BATCHES, "touched", derived, key)
    assert_same(got, of_array(loss(lambda values, i: values[Halves()(i)]), BATCHES, key=key))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(-1, ITEMS), min_size=1, max_size=6), st.data())
def test_rows_are_found_by_their_ids(ids, data):
    """Against a dictionary, and NaN, inside of a program, for what the batch does not have."""
    known = np.asarray(ids, np.int32)
    of = {i: np.asarray([i, k], np.float32) for k, i in reversed(list(enumerate(ids)))}
    wanted = data.draw(st.lists(st.sampled_from([*ids, 97]), min_size=4, max_size=4))
    values = jnp.stack([jnp.asarray(of[int(i)]) for i in known])
    table = rows.Gathered((jnp.asarray(known),), (values,), ("items",))
    got = jax.jit(lambda i: table[i])(jnp.asarray(wanted, jnp.int32).reshape(2, 2))
    nothing = np.full(2, np.nan)
    want = np.stack([of.get(i, nothing) for i in wanted]).reshape(2, 2, 2)
    np.testing.assert_array_equal(got, want)


def test_the_whole_field_is_what_was_gathered():
    batch = {"items": jnp.int32([1, 2]), "others": jnp.int32([[3], [4]])}
    values = jnp.ones((2, 3)), jnp.zeros((2, 1, 3))
    table = rows.gather(batch, ("items", "others"), values)
    assert table[batch["items"]] is values[0] and table[batch["others"]] is values[1]
    # As a pytree it holds the rows alone, and goes on to know the fields.
    again = jax.tree.map(lambda x: x + 1, table)
    assert len(jax.tree.leaves(table)) == 2 and again.fields == table.fields
    assert again[batch["items"]] is again.rows[0]
    assert table[jnp.int32([2, 4])].tolist() == [[1, 1, 1], [0, 0, 0]]


def test_what_is_no_id_of_the_batch_is_refused():
    batch = {"items": jnp.int32([1, 2]), "drawn": jnp.int32([2, 1])}
    table = rows.gather(batch, ("items",), (jnp.ones((2, 3)),))
    wrong = (batch["drawn"], 1, slice(None), jnp.ones(2), jnp.int32([1, 5]))
    for ids in wrong:
        with pytest.raises(ValueError, match=r"other than batch\['items'\] or ids among them; ind"):
            table[ids]
    mixed = ("items", Derived("drawn", Halves(), 2))
    table = rows.gather(batch, mixed, (jnp.ones((2, 3)), jnp.ones((2, 2, 3))))
    assert table[batch["drawn"]].shape == (2, 2, 3)
    with pytest.raises(ValueError, match="or ids among them"):
        table[batch["items"][:1]]


def test_a_program_is_not_taken_for_another_of_the_same_shapes():
    """Caches of `jax` know a function and the structure of its arguments, in which the ids are."""
    for seed in (1, 2):
        items = jnp.int32(np.random.default_rng(seed).integers(0, ITEMS, BATCH))
        batch, key = {**BATCHES, "items": items}, jax.random.key(seed)
        for loss in (checkpointed, jitted):
            assert_same(of_table(loss, batch, key=key), of_array(loss, batch, key=key))
