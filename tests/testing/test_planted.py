"""Planted faults, each caught by the public check of its kind; its healthy twin passes.

A fault is a small part with `wrong=True`, and its twin the same part without.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from rotating import in_turn

from fedjax_rec import aggregate, clients, compress, data, models, rows, strategies, testing
from fedjax_rec.testing.worlds import interactions, toy_model
from fedjax_rec.types import Aggregator, Client, Compressor, Model, Packet, Ranking, Strategy

pytestmark = pytest.mark.usefixtures("compiled_fast")


def eight_bits(wrong=False) -> Compressor:
    """A bias of two percent: what is decoded is that much too large."""

    def encode(key, x, real):
        scale = jnp.maximum(jnp.abs(x).max() / 127, 1e-30)
        return jnp.floor(x / scale + jax.random.uniform(key, x.shape)).astype(jnp.int8), scale

    factor = 1.02 if wrong else 1.0
    return compress.leafwise(encode, lambda body, scale, like: factor * (body * scale))


def dithered(wrong=False) -> Compressor:
    """A key used twice: the numbers that choose also round."""

    def encode(key, x, real):
        choose, noise = (key, key) if wrong else jax.random.split(key)
        kept = jax.random.bernoulli(choose, 0.5, x.shape)
        return kept * x * (1 + 0.1 * jax.random.normal(noise, x.shape)), ()

    return compress.leafwise(encode, lambda body, side, like: body)


def first_heavy(wrong=False) -> Aggregator:
    """Order dependence: the first client of a chunk counts twice."""
    plain = aggregate.mean()

    def reduce(state, uploads, now):
        weight = uploads.weight.at[0].multiply(2.0) if wrong else uploads.weight
        return plain.reduce(state, replace(uploads, weight=weight), now)

    return replace(plain, reduce=reduce, linear=False)


def of_all_items(model, wrong=False) -> Client:
    """A table copied for each client: the upload is laid out dense before it is one of rows."""
    inner = clients.local_training(model, data.pointwise(4), clients.sgd(0.5))

    def update(key, private, shared, data, now):
        private, upload = inner.update(key, private, shared, data, now)
        if not wrong:
            return private, upload

        def dense(u):
            whole = rows.to_dense(u.delta())
            return rows.RowsUpdate(whole, None, (whole != 0).any(1), None, u.size)

        return private, replace(upload, update=rows.map_tables(dense, upload.update))

    return replace(inner, update=update)


def scale_unsent(wrong=False) -> Compressor:
    """Bytes under-reported: the scale is said to be known at the other end."""

    def encode(key, memory, update, now):
        change = rows.map_tables(lambda u: replace(u, values=u.values.astype(jnp.bfloat16)), update)
        scale = jnp.abs(update["kernel"]).max()
        body = {**change, "kernel": jnp.round(update["kernel"] / scale * 127).astype(jnp.int8)}
        return memory, Packet(body, () if wrong else scale, scale if wrong else ())

    def decode(packet, like, now):
        scale = packet.known if wrong else packet.side
        body = {**packet.body, "kernel": packet.body["kernel"] / 127 * scale}
        widen = lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x
        return jax.tree.map(widen, body)

    return Compressor(lambda update: (), encode, decode)


def averaging(num_items, members=1, wrong=False) -> Model:
    """A NaN from padding: the mean of a batch in which nothing counts is 0 / 0."""
    plain = toy_model(num_items, members)

    def loss(shared, private, batch, key):
        user = private["user"][batch.get("users", 0)]
        off = ((shared["item"][batch["items"]] * user).sum(-1) - batch["labels"]) ** 2
        count = batch["mask"].sum()
        return (off * batch["mask"]).sum() / (count if wrong else jnp.maximum(count, 1.0))

    score = lambda shared, private, items, user: shared["item"][items] @ private["user"][user]
    return Model(plain.init, loss, Ranking.of(score))


def remembering(model, examples, wrong=False) -> Strategy:
    """A retrace a round: the history of its losses grows."""
    inner = strategies.fedavg(model, examples, optimizer=clients.sgd(1.0))

    def inside(state):
        return replace(state, server=state.server["strategy"])

    def around(state, losses):
        return replace(state, server={"strategy": state.server, "losses": losses})

    def round(key, state, cohort, chunk=None):
        after, info = inner.round(key, inside(state), cohort, chunk)
        losses, loss = state.server["losses"], info.metrics["loss"].mean()
        if wrong:
            return around(after, jnp.append(losses, loss)), info
        there = (info.weight > 0).any()
        losses = jnp.where(there, losses.at[state.round % 4].set(loss), losses)
        return around(after, losses), info

    init = lambda key, num_clients: around(inner.init(key, num_clients), jnp.zeros(4))
    packets = lambda key, state, cohort: inner.packets(key, inside(state), cohort)
    chunk = lambda key, state, cohort: inner.chunk(key, inside(state), cohort)
    return replace(inner, init=init, round=round, packets=packets, chunk=chunk)


def halved_bill(model, examples, wrong=False) -> Strategy:
    """Bytes under-reported, in the round."""
    inner = strategies.fedavg(model, examples, optimizer=clients.sgd(1.0))

    def round(key, state, cohort, chunk=None):
        after, info = inner.round(key, state, cohort, chunk)
        return after, replace(info, bytes_up=info.bytes_up // 2) if wrong else info

    return replace(inner, round=round)


def renamed(model, examples, wrong=False) -> Strategy:
    """A dropped predict: the model that is measured is made anew of loss and ranking."""
    inner = strategies.fedavg(model, examples, optimizer=clients.sgd(1.0))
    if not wrong:
        return inner
    return replace(inner, model=Model(model.init, model.loss, model.ranking))


def forgetful(model, examples, wrong=False) -> Strategy:
    """Memory updated for absent clients: all of it decays in each round."""
    inner = strategies.fedavg(
        model, examples, optimizer=clients.sgd(1.0),
        uplink=compress.error_feedback(compress.top_k(0.3)),
    )  # fmt: skip

    def round(key, state, cohort, chunk=None):
        after, info = inner.round(key, state, cohort, chunk)
        if wrong:
            decayed = jax.tree.map(lambda x: (0.9 * x).astype(x.dtype), after.memory)
            after = replace(after, memory=decayed)
        return after, info

    return replace(inner, round=round)


def drifting_on(model, examples, wrong=False) -> Strategy:
    """Momentum of the server that goes on where nobody takes part."""
    inner = strategies.fedavg(model, examples, optimizer=clients.sgd(1.0))

    def round(key, state, cohort, chunk=None):
        after, info = inner.round(key, state, cohort, chunk)
        moved = jax.tree.map(jnp.subtract, after.shared, state.shared)
        there = 1.0 if wrong else (info.weight > 0).any()
        goes_on = lambda x, m, by: x + there * 0.1 * (m + by)
        shared = jax.tree.map(goes_on, after.shared, state.server["momentum"], moved)
        kept = lambda m, by: jnp.where(there, 0.5 * m + by, m)
        momentum = jax.tree.map(kept, state.server["momentum"], moved)
        return replace(after, shared=shared, server={**after.server, "momentum": momentum}), info

    def init(key, num_clients):
        state = inner.init(key, num_clients)
        zeros = jax.tree.map(jnp.zeros_like, state.shared)
        return replace(state, server={**state.server, "momentum": zeros})

    return replace(inner, init=init, round=round)


def by_identity(num_items, members=1, wrong=False) -> Model:
    """Row ids by identity: the rows of the batch are taken as they lie, whatever ids are asked."""
    plain = toy_model(num_items, members)

    def loss(shared, private, batch, key):
        table = shared["item"]
        if wrong and isinstance(table, rows.Gathered):
            q = table.rows[0].reshape(-1, 4)[: batch["items"].size]
        else:
            q = table[batch["items"]]
        user = private["user"][batch.get("users", 0)]
        return models.bce()((q * user).sum(-1), batch)

    return replace(plain, loss=loss)


def predicting() -> Model:
    """The toy model, which also predicts labelled examples."""
    found = interactions()
    plain = toy_model(found.num_items, found.members)

    def predict(shared, private, batch):
        return shared["item"][batch["items"]] @ private["user"][0] + shared["bias"]

    return replace(plain, predict=predict)


def added(wrong=False) -> models.Fusion:
    """What is not shown moves what is: scores are scaled by the largest of all."""

    def fuse(scores, shares, real):
        known = jnp.where(jnp.isfinite(scores), scores, -jnp.inf)
        low = jnp.min(jnp.where(known > -jnp.inf, known, jnp.inf), 1, where=real, initial=jnp.inf)
        known = jnp.where(known > -jnp.inf, known, low[:, None]) - low[:, None]
        most = known.max(1, where=jnp.ones_like(real) if wrong else real, initial=1e-9)
        return (shares[:, None] * known / most[:, None]).sum(0)

    return models.Fusion(fuse)


def numbered(wrong=False) -> models.Quantiser:
    """Codes by the place of a vector, and not by what it is."""

    def quantise(key, vectors, levels, codes):
        found, centres = models.residual_kmeans(key, vectors, levels, codes)
        last = jnp.arange(len(vectors), dtype=jnp.int32) // 13 % codes
        return (found.at[:, -1].set(last) if wrong else found), centres

    return models.Quantiser(quantise)


PLANTED = {
    "a bias of 2%": (
        eight_bits, partial(testing.check_compressor, unbiased=True), "unbiased compressors are",
    ),
    "a key used twice": (dithered, testing.check_compressor, "keys are consumed once"),
    "order dependence": (
        first_heavy, testing.check_aggregator, "the order of clients changes nothing",
    ),
    "a table copied per client": (of_all_items, testing.check_client, "no table is copied"),
    "bytes under-reported": (scale_unsent, testing.check_compressor, "everything is sent"),
    "bytes under-reported by a round": (
        halved_bill, testing.check_strategy, "bytes are those of the packets",
    ),
    "a NaN from padding": (averaging, testing.check_model, "a batch of padding is finite"),
    "a retrace a round": (remembering, testing.check_strategy, "its set-up"),
    "a dropped predict": (
        renamed, partial(testing.check_strategy, model=predicting()), "its model is the model",
    ),
    "memory updated for absent clients": (
        forgetful, testing.check_strategy, "who is away is left alone",
    ),
    "a round of nobody that moves the model": (
        drifting_on, testing.check_strategy, "a round of nobody moves nothing",
    ),
    "a list that is scaled by what is not in it": (
        added, testing.check_fusion, "what is not shown is not read",
    ),
    "codes by place": (
        numbered, testing.check_quantiser, "the same vectors have the same codes",
    ),
    "row ids by identity": (by_identity, testing.check_model, "rows are found by their ids"),
}  # fmt: skip
# Parts that are made of what the check gives them; the others are made here.
BY_CHECK = {testing.check_client, testing.check_strategy, testing.check_model}


def part(make, check, wrong: bool):
    of_check = getattr(check, "func", check) in BY_CHECK
    return partial(make, wrong=wrong) if of_check else make(wrong=wrong)


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_caught(fault):
    make, check, law = PLANTED[fault]
    with pytest.raises(AssertionError) as caught:
        check(part(make, check, wrong=True))
    line = str(caught.value)
    assert law in line and "\n" not in line and "But: " in line


@pytest.mark.parametrize("fault", in_turn(PLANTED, 3))
def test_its_healthy_twin_passes(fault):
    make, check, _ = PLANTED[fault]
    check(part(make, check, wrong=False))


def test_laws_run_one_by_one():
    part, told = eight_bits(), []
    for law in testing.laws("compressor"):
        law(part, unbiased=True)
        told.append(law.__name__)
    assert len(set(told)) == len(told) >= 10
    wrong = eight_bits(wrong=True)
    broken = []
    for law in testing.laws("compressor"):
        try:
            law(wrong, unbiased=True)
        except AssertionError:
            broken.append(law.__name__)
    assert broken == ["unbiased_compressors_are"]


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match=r"'compresor'\) is none of"):
        testing.laws("compresor")
