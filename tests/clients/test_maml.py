"""Per-FedAvg against a NumPy loop, with and without the Hessian."""

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
from fedjax_rec.strategies.per_fedavg import maml, share_of

ALPHA, BETA, DELTA = 0.2, 0.05, 0.05
PASSES = Passes(epochs=2, batch_size=7)


def first(w: dict, batch) -> dict:
    near = step(w, gradient(w, batch[::2]), ALPHA)
    return gradient(near, batch[1::2])


def hessian_free(w: dict, batch) -> dict:
    near = step(w, gradient(w, batch[::3]), ALPHA)
    g = gradient(near, batch[1::3])
    up, down = (gradient(step(w, g, -d), batch[2::3]) for d in (DELTA, -DELTA))
    out = combined(lambda g, u, d: g - ALPHA * (u - d) / (2 * DELTA), g, up, down)
    return {**out, "loss": g["loss"]}


@pytest.mark.parametrize(
    ("items", "order_", "direction"),
    [(5, "first", first), (30, "hessian_free", hessian_free)],
    ids=["whole, first order", "compact, Hessian"],
)  # fmt: skip
def test_a_round_is_that_of_the_algorithm(items, order_, direction):
    model = factorization(items)
    client = maml(model, EXAMPLES, clients.sgd(BETA), ALPHA, order_, DELTA, PASSES)
    shared, private = model.init(KEY)
    w, losses = numbers(shared, private), []
    for batch in order(7, 2):
        g = direction(w, batch)
        losses.append(g["loss"])
        w = step(w, g, BETA)
    after, upload = updated(client, shared, private)
    agree(changed(upload, shared, after), w, rtol=1e-3, atol=2e-5)
    np.testing.assert_allclose(upload.metrics["loss"], np.mean(losses), rtol=1e-4)
    nothing_changes(client, shared)


def test_shares_of_a_batch_are_distinct_and_even():
    batch = {"items": jnp.arange(7), "mask": jnp.float32([1, 1, 1, 1, 1, 0, 0])}
    parts = [share_of(batch, i, 3) for i in range(3)]
    assert sorted(i for p in parts for i in p["items"].tolist()) == list(range(7))
    assert sorted(float(p["mask"].sum()) for p in parts) == [1, 2, 2]


@pytest.mark.parametrize(
    ("bad", "message"),
    [({"alpha": 0}, r"maml\(alpha=0\)"), ({"delta": 0}, r"maml\(delta=0\)"),
     ({"order": "frist"}, r"did you mean 'first'")],
)  # fmt: skip
def test_bad_arguments_are_named(bad, message):
    with pytest.raises(ValueError, match=message):
        maml(factorization(5), EXAMPLES, clients.sgd(BETA), **bad)


@pytest.mark.parametrize(("order_", "parts"), [("first", 2), ("hessian_free", 3)])
def test_batches_that_cannot_be_split_are_refused(order_, parts):
    model = factorization(5)
    client = maml(model, EXAMPLES, clients.sgd(BETA), order=order_, passes=Passes(batch_size=1))
    with pytest.raises(ValueError, match=f"each batch into {parts}, and batches are of 1; set"):
        updated(client, *model.init(KEY))
