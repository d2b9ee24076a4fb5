"""APFL against a NumPy loop: two models in one loop, and their share."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from alone import (
    EXAMPLES,
    KEY,
    agree,
    changed,
    combined,
    factorization,
    gradient,
    nothing_changes,
    numbers,
    order,
    step,
    updated,
)

from fedjax_rec import clients
from fedjax_rec.clients.batches import Passes
from fedjax_rec.strategies.apfl import apfl_client as apfl
from fedjax_rec.strategies.apfl import own as served

RATE, ALPHA_RATE = 0.1, 0.02
PASSES = Passes(epochs=2, batch_size=3)


def probe(scorer, data):
    return {"all": scorer()(slice(None))}


def mixed(alpha, v, w):
    return combined(lambda a, b: alpha * a + (1 - alpha) * b, v, w)


def reference(v, w, alpha, rate):
    losses = []
    for t, batch in enumerate(order(3, 2)):
        g, h = gradient(w, batch), gradient(mixed(alpha, v, w), batch)
        away = sum(np.sum((v[name] - w[name]) * h[name]) for name in "qbp")
        losses.append(h["loss"] * len(batch))
        w, v = step(w, g, RATE), step(v, h, RATE * alpha)
        if t == 0:
            alpha = np.clip(alpha - rate * away, 0, 1)
    return v, w, alpha, sum(losses) / 14


def own(private):
    return numbers(private["own"]["shared"], private["own"]["private"])


@pytest.mark.parametrize(
    ("items", "rate"),
    [pytest.param(30, None, marks=pytest.mark.slow), (5, ALPHA_RATE)],
    ids=["compact", "whole"],
)
def test_two_rounds_are_those_of_the_algorithm(items, rate):
    model = factorization(items)
    client = apfl(model, EXAMPLES, clients.sgd(RATE), 0.3, rate, PASSES, probe)
    shared = model.init(KEY)[0]
    private = client.init(KEY, jnp.int32(0))
    np.testing.assert_allclose(
        served(model, 0.3).score(shared, private, slice(None)),
        model.score(shared, private["model"], slice(None)),
        rtol=1e-5,
    )
    w, alpha = numbers(shared, private["model"]), 0.3
    v, w, alpha, _ = reference(w, w, alpha, rate or 0.0)
    first, upload = updated(client, shared, private)
    agree(changed(upload, shared, first["model"]), w)
    agree(own(first), v)

    later = {**shared, "bias": jnp.float32(0.4)}
    later["item"] = replace(shared["item"], values=0.5 * shared["item"].values + 0.1)
    v, w, alpha, loss = reference(v, numbers(later, first["model"]), alpha, rate or 0.0)
    second, upload = updated(client, later, first)
    agree(changed(upload, later, second["model"]), w)
    agree(own(second), v)
    np.testing.assert_allclose(second["alpha"], alpha, rtol=1e-4)
    assert (abs(alpha - 0.3) > 1e-3) == (rate is not None)
    np.testing.assert_allclose(upload.metrics["loss"], loss, rtol=1e-4)
    np.testing.assert_allclose(upload.metrics["alpha"], alpha, rtol=1e-4)

    u = mixed(alpha, v, w)
    scores = u["q"] @ u["p"] + u["b"] + 0.25
    np.testing.assert_allclose(upload.metrics["all"], scores, rtol=1e-3, atol=1e-5)
    u = mixed(alpha, v, {**numbers(later, second["model"])})
    scores = u["q"] @ u["p"] + u["b"] + 0.25
    found = served(model, 0.3).score(later, second, slice(None))
    np.testing.assert_allclose(found, scores, rtol=1e-3, atol=1e-5)
    nothing_changes(client, shared)


def test_groups_train_what_they_name():
    """In w and in v alike, under the names of the model."""
    model = factorization(30)
    optimizer = clients.groups({"item": clients.sgd(RATE)})
    client = apfl(model, EXAMPLES, optimizer, 0.5, passes=PASSES)
    shared = model.init(KEY)[0]
    private = client.init(KEY, jnp.int32(0))
    after, upload = updated(client, shared, private)
    assert float(upload.update["bias"]) == 0 == float(after["own"]["shared"]["bias"] - 0.1)
    np.testing.assert_array_equal(after["own"]["private"]["user"], private["model"]["user"])
    moved = after["own"]["shared"]["item"].values - shared["item"].values
    assert np.abs(np.asarray(moved)[:5]).min() > 1e-6 and not np.asarray(moved)[5:].any()


def test_bad_arguments_are_named():
    model = factorization(5)
    with pytest.raises(ValueError, match=r"apfl\(alpha=1.5\)"):
        apfl(model, EXAMPLES, clients.sgd(RATE), 1.5)
    with pytest.raises(ValueError, match=r"apfl\(alpha_rate=-1\)"):
        apfl(model, EXAMPLES, clients.sgd(RATE), 0.5, -1)
