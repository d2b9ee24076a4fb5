"""Ditto against a NumPy loop of two rounds, and what scores and is looked at."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from alone import (
    EXAMPLES,
    ITEMS,
    KEY,
    agree,
    changed,
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
from fedjax_rec.strategies.ditto import ditto_client as ditto
from fedjax_rec.strategies.ditto import own

RATE, LAM = 0.1, 0.7
PASSES = Passes(epochs=2, batch_size=3)


def probe(scorer, data):
    return {"all": scorer()(slice(None))}


def reference(v: dict, w: dict) -> dict:
    """v after a round with w received; private parameters are not pulled."""
    for batch in order(3, 2):
        g = gradient(v, batch)
        # Of tables, the rows of the batch, once each.
        pull = {"q": np.zeros_like(v["q"]), "b": v["b"] - w["b"], "p": 0.0}
        touched = np.unique(ITEMS[batch])
        pull["q"][touched] = (v["q"] - w["q"])[touched]
        v = {name: x - RATE * (g[name] + LAM * pull[name]) for name, x in v.items()}
    return v


@pytest.mark.parametrize(
    "items", [30, pytest.param(5, marks=pytest.mark.slow)], ids=["compact", "whole"]
)
def test_two_rounds_are_those_of_the_algorithm(items):
    model = factorization(items)
    client = ditto(model, EXAMPLES, clients.sgd(RATE), LAM, passes=PASSES, probe=probe)
    shared = model.init(KEY)[0]
    private = client.init(KEY, jnp.int32(0))
    user = private["model"]
    np.testing.assert_allclose(
        own(model).score(shared, private, slice(None)), model.score(shared, user, slice(None))
    )
    first, upload = updated(client, shared, private)
    w = numbers(shared, user)
    for batch in order(3, 2):
        w = step(w, gradient(w, batch), RATE)
    agree(changed(upload, shared, first["model"]), w)
    v = reference(numbers(shared, user), numbers(shared, user))
    agree(numbers(first["own"]["shared"], first["own"]["private"]), v)

    # The server has moved on, also where this client has nothing.
    later = {**shared, "bias": jnp.float32(0.4)}
    later["item"] = replace(shared["item"], values=0.5 * shared["item"].values + 0.1)
    second, upload = updated(client, later, first)
    v = reference(v, numbers(later, user))
    agree(numbers(second["own"]["shared"], second["own"]["private"]), v)
    scores = v["q"] @ v["p"] + v["b"] + 0.25
    np.testing.assert_allclose(upload.metrics["all"], scores, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(
        own(model).score(later, second, slice(None)), scores, rtol=1e-3, atol=1e-5
    )
    nothing_changes(client, shared)


@pytest.mark.slow
def test_the_round_is_passed_on_to_both_optimizers():
    model = factorization(5)
    moving = clients.scheduled(clients.sgd, lambda round: RATE / (1 + round))
    still = clients.sgd(RATE)
    shared = model.init(KEY)[0]
    for client, moves in (
        (ditto(model, EXAMPLES, moving, 0.1, still), "upload"),
        (ditto(model, EXAMPLES, still, 0.1, moving), "own"),
    ):
        private = client.init(KEY, jnp.int32(0))
        both = [updated(client, shared, private, round=r) for r in (0, 3)]
        found = {
            "upload": [np.asarray(upload.update["bias"]) for _, upload in both],
            "own": [np.asarray(kept["own"]["shared"]["bias"]) for kept, _ in both],
        }
        for name, (first, later) in found.items():
            assert (first != later) == (name == moves)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"ditto\(lam=-1\)"):
        ditto(factorization(5), EXAMPLES, clients.sgd(RATE), -1)
