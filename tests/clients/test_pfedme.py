"""pFedMe against a NumPy loop that pulls every row of the table."""

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
    updated,
)

from fedjax_rec import clients
from fedjax_rec.clients.batches import Passes
from fedjax_rec.strategies.pfedme import pfedme_client as pfedme

ETA, PERSONAL, LAM, K = 0.05, 0.1, 2.0, 4
PASSES = Passes(epochs=2, batch_size=3)


def reference(w: dict) -> dict:
    for batch in order(3, 2):
        theta = w
        for _ in range(K):
            g = gradient(theta, batch)
            theta = combined(lambda x, g, w: x - PERSONAL * (g + LAM * (x - w)), theta, g, w)
        w = combined(lambda w, x: w - ETA * LAM * (w - x), w, theta)
    return w


@pytest.mark.parametrize(
    "items", [30, pytest.param(5, marks=pytest.mark.slow)], ids=["compact", "whole"]
)
def test_a_round_is_that_of_the_algorithm(items):
    """Items 2 and 3 stand twice in some batches, whose rows are pulled once."""
    model = factorization(items)
    client = pfedme(model, EXAMPLES, clients.sgd(ETA), clients.sgd(PERSONAL), LAM, K, PASSES)
    shared, private = model.init(KEY)
    after, upload = updated(client, shared, private)
    agree(changed(upload, shared, after), reference(numbers(shared, private)))
    nothing_changes(client, shared)


def test_one_step_of_the_inner_problem_is_a_step_of_descent():
    """With K = 1, w moves by eta lam eta_p grad f(w); only what the groups name."""
    model = factorization(5)
    groups = clients.groups({"item": clients.sgd(0.5)})
    client = pfedme(model, EXAMPLES, groups, clients.sgd(0.1), 2.0, 1, PASSES)
    plain = clients.groups({"item": clients.sgd(0.1)})
    plain = clients.local_training(model, EXAMPLES, plain, epochs=2, batch_size=3)
    shared, private = model.init(KEY)
    a, b = (updated(c, shared, private) for c in (client, plain))
    agree(changed(a[1], shared, a[0]), changed(b[1], shared, b[0]), rtol=1e-5, atol=1e-6)
    assert float(a[1].update["bias"]) == 0


@pytest.mark.parametrize(
    ("bad", "message"),
    [({"lam": 0}, r"pfedme\(lam=0\)"), ({"inner_steps": 0}, r"pfedme\(inner_steps=0\)")],
)
def test_bad_arguments_are_named(bad, message):
    with pytest.raises(ValueError, match=message):
        pfedme(factorization(5), EXAMPLES, clients.sgd(ETA), clients.sgd(PERSONAL), **bad)
