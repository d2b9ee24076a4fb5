"""Clients in a row: who sees what, whose upload counts, and what comes down."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from alone import (
    EXAMPLES,
    KEY,
    agree,
    changed,
    factorization,
    gradient,
    listed,
    nothing_changes,
    numbers,
    order,
    same,
    step,
    updated,
)

from fedjax_rec import clients, keys, rows, wire
from fedjax_rec.rows import RowsUpdate
from fedjax_rec.strategies.reconstruction import anew, downloads, fine_tuned, in_sequence
from fedjax_rec.types import Client, Now, Packet, Upload

HEAD, BODY = 0.2, 0.1


def probe(scorer, data):
    return {"all": scorer()(slice(None))}


def training(model, optimizer, epochs=1, **kwargs):
    return clients.local_training(model, EXAMPLES, optimizer, epochs, batch_size=3, **kwargs)


def of(name, rate):
    return clients.groups({name: clients.sgd(rate)})


@pytest.mark.parametrize(
    "items", [pytest.param(30, marks=pytest.mark.slow), 5], ids=["compact", "whole"]
)
def test_head_then_body_is_fedrep(items):
    model = factorization(items)
    client = in_sequence(
        [training(model, of("private", HEAD), 2), training(model, of("shared", BODY))]
    )
    shared, private = model.init(KEY)
    after, upload = updated(client, shared, private)
    x = numbers(shared, private)
    for batch in order(3, 2):
        x = step(x, gradient(x, batch), HEAD, "p")
    for batch in order(3):
        x = step(x, gradient(x, batch), BODY, "qb")
    agree(changed(upload, shared, after), x)
    # Both draw the same examples: items 0 to 4 come down, once, and the bias.
    got = RowsUpdate(np.ones((5, 2), np.float32), np.arange(5), np.ones(5, bool), None, items)
    assert int(upload.down) == len(wire.to_bytes(Packet({"item": got, "bias": np.float32(1)})))
    nothing_changes(client, shared)


def test_a_tuner_is_looked_at_and_forgotten():
    model = factorization(5)
    plain, tuner = training(model, clients.sgd(BODY)), training(model, clients.sgd(HEAD), 2)
    watched = training(model, clients.sgd(HEAD), 2, probe=probe)
    shared, private = model.init(KEY)
    client = fine_tuned(plain, watched)
    after, upload = updated(client, shared, private)
    nothing_changes(client, shared)
    kept, alone = updated(plain, shared, private)
    same((after, upload.update, upload.weight), (kept, alone.update, alone.weight))
    own, tuned = updated(tuner, shared, private)
    x = changed(tuned, shared, own)
    np.testing.assert_allclose(
        upload.metrics["all"], x["q"] @ x["p"] + x["b"] + 0.25, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(upload.metrics["loss"], alone.metrics["loss"])
    np.testing.assert_allclose(upload.metrics["tuned_loss"], tuned.metrics["loss"])


def test_private_parameters_start_again_in_every_round():
    model = factorization(30)
    client = anew(training(model, of("shared", BODY)))
    shared, private = model.init(KEY)
    worn = jax.tree.map(lambda x: x + 1, private)

    @jax.jit
    def left(private, round, id, length):
        data = replace(listed(), id=id, length=length)
        return client.update(KEY, private, shared, data, Now(round, shared))[0]

    found = left(private, 3, 0, 7)
    same(left(worn, 3, 0, 7), found)
    same(client.init(jax.random.fold_in(jax.random.key(0), 3), jnp.int32(0)), found)
    for other in (left(private, 4, 0, 7), left(private, 3, 1, 7)):
        assert (np.asarray(other["user"]) != np.asarray(found["user"])).all()
    same(left(worn, 3, 0, 0), worn)


def named(ids, size, whole):
    live = np.zeros(size if whole else 6, bool)
    if whole:
        live[ids] = True
        return RowsUpdate(jnp.ones((size, 2)), None, jnp.asarray(live), None, size)
    padded = np.sort(np.concatenate([ids, np.full(6 - len(ids), size)])).astype(np.int32)
    live = (padded < size) & np.append(True, padded[1:] != padded[:-1])
    return RowsUpdate(jnp.ones((6, 2)), jnp.asarray(padded), jnp.asarray(live), None, size)


@pytest.mark.parametrize("layouts", [(False, False), (True, True), (False, True)], ids=str)
def test_down_come_the_rows_that_any_touches(layouts):
    size, parts = 50, ([3, 7, 7, 20], [7, 9, 49])
    shared = {"item": rows.Table(jnp.ones((size, 2))), "w": jnp.ones(5)}
    uploads = [
        Upload({"item": named(ids, size, whole), "w": jnp.ones(5)}, jnp.float32(1), {})
        for ids, whole in zip(parts, layouts, strict=True)
    ]
    ids = np.int32([3, 7, 9, 20, 49])
    union = RowsUpdate(np.ones((5, 2), np.float32), ids, np.ones(5, bool), None, size)
    want = len(wire.to_bytes(Packet({"item": union, "w": np.ones(5, np.float32)})))
    assert int(downloads(shared, uploads)) == want
    # One that says what came down is believed.
    told = [uploads[0], replace(uploads[1], down=jnp.uint32(1000))]
    assert int(downloads(shared, told)) == int(downloads(shared, uploads[:1])) + 1000


def test_all_of_a_row_know_the_round():
    seen = []

    def telling(name):
        def update(key, private, shared, data, now):
            seen.append((name, int(now.round)))
            return private, Upload({"w": jnp.ones(2)}, jnp.float32(1), {"loss": jnp.float32(0)})

        return Client(lambda key, client: (), update)

    a, b = telling("a"), telling("b")
    shared = {"w": jnp.ones(2)}
    for made in (in_sequence([a, b]), fine_tuned(a, b)):
        made.update(KEY, (), shared, None, Now(jnp.int32(4), shared))
    assert seen == [("a", 4), ("b", 4)] * 2


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"in_sequence\(clients=\[\]\) trains nothing"):
        in_sequence([])
    a, b = (training(factorization(5, width), clients.sgd(0.1)) for width in (2, 3))
    key = keys.stream(KEY, "private")
    for both in (in_sequence([a, b]), fine_tuned(a, b)):
        with pytest.raises(ValueError, match="use clients of the same model"):
            both.init(key, jnp.int32(0))
