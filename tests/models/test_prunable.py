"""A mask of ones changes nothing; what it switches off is zero, and so is its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import models, rows, trees
from fedjax_rec.models.prunable import parameters, prunable, switched
from fedjax_rec.types import Model

ITEMS, WIDTH = 20, 4
KEY = jax.random.key(1)
BATCH = {
    "items": jnp.int32([3, 7, 3, 19, 0]),
    "labels": jnp.float32([1, 0, 0, 1, 1]),
    "mask": jnp.float32([1, 1, 1, 1, 0]),
}


def neumf():
    return models.neumf(ITEMS, 1, width=WIDTH, layers=(5, 3), scale=1.0)


def masked(shared, share=0.5, seed=0):
    """`shared` with a random mask."""
    rng = np.random.default_rng(seed)
    mask = {k: jnp.asarray(rng.random(m.shape) < share) for k, m in shared["mask"].value.items()}
    return {**shared, "mask": trees.Frozen(mask)}


def by_hand(shared):
    """The model with its weights multiplied by the mask, leaf by leaf."""
    mask, model = shared["mask"].value, shared["model"]

    def one(path, x):
        m = mask["model/" + "/".join(str(k.key) for k in path)]
        return rows.Table(x.values * m, x.fields) if rows.is_table(x) else x * m

    return jax.tree_util.tree_map_with_path(one, model, is_leaf=rows.is_table)


def gathered(shared):
    """`shared` as the loss of a client in training sees it."""
    return rows.map_tables(
        lambda t: rows.Gathered((BATCH["items"],), (t.values[BATCH["items"]],), t.fields), shared
    )


def test_a_mask_of_ones_changes_nothing():
    plain, model = neumf(), prunable(neumf())
    (shared, private), (want, own) = model.init(KEY), plain.init(KEY)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), shared["model"], want))
    assert all(m.dtype == bool and m.all() for m in shared["mask"].value.values())
    loss = plain.loss(want, own, BATCH, KEY)
    for seen in (shared, gathered(shared)):
        np.testing.assert_array_equal(model.loss(seen, private, BATCH, KEY), loss)
    for items in (slice(None), jnp.int32([4, 4, 9])):
        a, b = model.score(shared, private, items), plain.score(want, own, items, 0)
        np.testing.assert_array_equal(a, b)
    started = model.init(KEY, KEY)[1]
    assert jax.tree.structure(started) == jax.tree.structure(private)


def test_masks_are_named_by_path_and_shaped_as_their_leaves():
    shared = jax.eval_shape(lambda: prunable(neumf()).init(KEY)[0])
    shapes = {k: x.shape for k, x in parameters(shared).items()}
    assert shapes == {k: m.shape for k, m in shared["mask"].value.items()}
    assert shapes["model/halves/1/item"] == (ITEMS, WIDTH)
    assert shapes["model/halves/1/features/layers/0/kernel"] == (2 * WIDTH, 5)
    assert shapes["model/readout/bias"] == (1,)


def test_what_is_off_is_zero_to_loss_and_score():
    plain, model = neumf(), prunable(neumf())
    shared, private = model.init(KEY)
    shared = masked(shared)
    want = by_hand(shared)
    loss = plain.loss(want, private, BATCH, KEY)
    for seen in (shared, gathered(shared)):
        np.testing.assert_allclose(model.loss(seen, private, BATCH, KEY), loss, rtol=1e-6)
    local = rows.map_tables(lambda t: rows.localize(t, jnp.int32([3, 7, 7, 19, ITEMS])), shared)
    own = jax.tree.map(
        lambda a, s: rows.Overlay(a, s) if rows.is_table(a) else a,
        local,
        shared,
        is_leaf=rows.is_table,
    )
    for items in (slice(None), jnp.int32([4, 4, 9, 3])):
        score = plain.score(want, private, items, 0)
        for seen in (shared, own):
            got = model.score(seen, private, items)
            np.testing.assert_allclose(got, score, rtol=1e-5, atol=1e-6)


def test_gradients_are_zero_where_the_mask_is_off_and_only_there():
    plain, model = neumf(), prunable(neumf())
    shared, private = model.init(KEY)
    shared = masked(shared)
    mask = shared["mask"].value
    named = lambda tree: {k: getattr(x, "values", x) for k, x in parameters(tree).items()}

    def loss(inner):
        return model.loss({**shared, "model": inner}, private, BATCH, KEY)

    got = named({"model": jax.grad(loss)(shared["model"])})
    want = jax.grad(lambda inner: plain.loss(inner, private, BATCH, KEY))(by_hand(shared))
    want = named({"model": want})
    for path, gradient in got.items():
        assert not np.asarray(gradient)[~np.asarray(mask[path])].any()
        np.testing.assert_allclose(gradient, want[path] * mask[path], rtol=1e-5, atol=1e-7)
    assert np.asarray(want["model/halves/0/item"])[~np.asarray(mask["model/halves/0/item"])].any()


def test_a_mask_of_columns_multiplies_every_row():
    model = prunable(models.fedmf(ITEMS, 1, width=WIDTH))
    shared, private = model.init(KEY)
    factor = jnp.float32([0.0, 2.0, 0.0, 2.0])
    whole = jnp.broadcast_to(factor, (ITEMS, WIDTH))
    few = {**shared, "mask": trees.Frozen({"model/item": factor})}
    many = {**shared, "mask": trees.Frozen({"model/item": whole})}
    for seen in (few, gathered(few)):
        a = model.loss(seen, private, BATCH, KEY)
        np.testing.assert_allclose(a, model.loss(many, private, BATCH, KEY), rtol=1e-6)
    np.testing.assert_array_equal(
        switched(few)["item"].values, shared["model"]["item"].values * factor
    )


@pytest.mark.parametrize("bad", [jnp.inf, -1.0])
def test_zero_is_zero_whatever_was_there(bad):
    shared = {
        "model": {"w": jnp.full((2, 2), bad)},
        "mask": trees.Frozen({"model/w": jnp.zeros((2, 2), bool)}),
    }
    off = np.asarray(switched(shared)["w"])
    assert off.tobytes() == np.zeros((2, 2), np.float32).tobytes()


def test_frozen_values_have_no_mask():
    inner = {"base": trees.Frozen(jnp.ones(3)), "w": jnp.ones((2, 2))}
    model = prunable(models_of(inner))
    shared, _ = model.init(KEY)
    assert list(shared["mask"].value) == ["model/w"]
    assert float(model.loss(shared, (), {}, KEY)) == 7.0


def models_of(shared):
    total = lambda s, *rest: s["base"].value.sum() + s["w"].sum()
    return Model(lambda key, common=None: (shared, ()), total)
