"""Federated dropout: which columns a client trains, and that it leaves the others alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rounds import FIRST

from fedjax_rec import models
from fedjax_rec.models.prunable import prunable
from fedjax_rec.rows import Table
from fedjax_rec.strategies.pruning import _drawn, submodel
from fedjax_rec.trees import Frozen
from fedjax_rec.types import Client, Now, Upload

KEY = jax.random.key(2)
SHAPES = {
    "model/item": (30, 8),
    "model/layers/0/kernel": (6, 10),
    "model/layers/0/bias": (10,),
    "model/layers/1/kernel": (10, 1),
    "model/layers/1/bias": (1,),
    "model/scale": (),
    "model/other": (5,),
}
MASK = {path: jnp.ones(shape, bool) for path, shape in SHAPES.items()}
SHARED = {"model": {"item": Table(jnp.ones((30, 8)))}, "mask": Frozen(MASK)}


def looking() -> Client:
    """A client whose upload is the mask that it was given."""

    def update(key, private, shared, data, now):
        return private, Upload(shared["mask"].value, jnp.float32(1), {"key": key})

    return Client(lambda key, client: (), update)


def drawn(fraction, key=KEY):
    return submodel(looking(), fraction).update(key, (), SHARED, None, FIRST)[1].update


@pytest.mark.parametrize(("fraction", "kept"), [(0.3, 3), (0.01, 1), (0.55, 6), (1.0, 10)])
def test_as_many_columns_as_said_with_the_factor_of_inverted_dropout(fraction, kept):
    factors = drawn(fraction)
    kernel = np.asarray(factors["model/layers/0/kernel"])
    assert kernel.shape == (10,) and (kernel > 0).sum() == kept
    np.testing.assert_allclose(kernel[kernel > 0], 10 / kept, rtol=1e-6)
    # A unit's bias goes with it; one column, scalars and vectors by themselves stay.
    np.testing.assert_array_equal(factors["model/layers/0/bias"], kernel)
    for path in ("model/layers/1/kernel", "model/layers/1/bias", "model/scale", "model/other"):
        assert (np.asarray(factors[path], np.float32) == 1).all()
    assert factors["model/item"].shape == (8,)


def test_each_column_is_as_likely_and_the_mean_is_the_whole_model():
    keys = jax.random.split(KEY, 2000)
    draws = jax.jit(jax.vmap(lambda k: _drawn(k, MASK, 0.3)["model/layers/0/kernel"]))(keys)
    spread = np.sqrt(1 / 0.3 - 1) / np.sqrt(len(keys))
    assert np.abs(np.asarray(draws).mean(0) - 1).max() < 4.5 * spread
    # Without replacement: two columns together as often as 3/10 * 2/9 says.
    both = ((draws[:, 0] > 0) & (draws[:, 7] > 0)).mean()
    assert abs(float(both) - 3 / 10 * 2 / 9) < 4.5 * np.sqrt(0.067 / len(keys))


def test_matrices_draw_for_themselves_and_keys_decide():
    a, b = drawn(0.5), drawn(0.5)
    jax.tree.map(np.testing.assert_array_equal, a, b)
    other = drawn(0.5, jax.random.key(3))
    assert any((np.asarray(a[p]) != np.asarray(other[p])).any() for p in a)
    seen = set()
    for i in range(20):
        kernel = drawn(0.5, jax.random.key(i))["model/layers/0/kernel"]
        seen.add(tuple(np.flatnonzero(kernel)))
    assert len(seen) > 10


def test_the_client_draws_from_another_key_than_it_trains_with():
    _, upload = submodel(looking(), 0.5).update(KEY, (), SHARED, None, FIRST)
    assert not (jax.random.key_data(upload.metrics["key"]) == jax.random.key_data(KEY)).all()


def test_a_unit_that_was_left_out_is_silent():
    """It has no gradient in its column and its bias, nor has what the next layer makes of it."""
    model = prunable(models.mlp(9, 1, width=4, layers=(6, 4), scale=0.5))
    shared, private = model.init(KEY)
    items = jnp.arange(9)
    batch = {"items": items, "labels": items % 2.0, "mask": jnp.ones(9)}

    def update(key, private, shared, data, now):
        loss = lambda inner: model.loss({**shared, "model": inner}, private, batch, key)
        change = jax.grad(loss)(shared["model"])
        return private, Upload(change, jnp.float32(1), shared["mask"].value)

    client = submodel(Client(lambda key, client: private, update), 0.5)
    upload = jax.jit(lambda key: client.update(key, private, shared, None, Now(0, shared))[1])(KEY)
    half = upload.update["halves"]["0"]
    layers = half["features"]["layers"]
    on = np.asarray(upload.metrics["model/halves/0/features/layers/0/kernel"]) > 0
    kernel = np.asarray(layers["0"]["kernel"])
    assert on.sum() == 3 and not kernel[:, ~on].any() and kernel[:, on].any()
    assert not np.asarray(layers["0"]["bias"])[~on].any()
    assert not np.asarray(layers["1"]["kernel"])[~on].any()
    item = np.asarray(half["item"].values)
    on = np.asarray(upload.metrics["model/halves/0/item"]) > 0
    assert on.sum() == 2 and not item[:, ~on].any() and item[:, on].any()


def test_the_inner_client_knows_the_round():
    inner = Client(lambda key, client: (), lambda *a: (a[-1].round, looking().update(*a)[1]))
    private, upload = submodel(inner, 0.5).update(KEY, (), SHARED, None, Now(7, SHARED))
    assert private == 7 and (np.asarray(upload.update["model/item"]) > 0).sum() == 4


@pytest.mark.parametrize("fraction", [0.0, 1.2])
def test_fractions_outside_are_refused(fraction):
    with pytest.raises(ValueError, match=r"submodel\(fraction=.*use 0 < fraction <= 1"):
        submodel(looking(), fraction)


def test_a_model_without_a_mask_is_refused():
    with pytest.raises(ValueError, match=r"make it with models.prunable\(model\)"):
        submodel(looking(), 0.5).update(KEY, (), {"item": 1}, None, FIRST)
