"""Local training against NumPy: alternating updates, probes, the optimizers and their groups."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rounds import FIRST, now

from fedjax_rec import clients, keys, models, rows
from fedjax_rec.clients.batches import Passes, turns_of
from fedjax_rec.clients.optimizers import as_local
from fedjax_rec.data.batches import Batches
from fedjax_rec.rows import LocalTable, RowsGradient
from fedjax_rec.types import record

ITEMS, WIDTH = 30, 4
KEY = jax.random.key(2)


@record
class Listed:
    """A client's examples as plain arrays, standing in for `data.ClientData`."""

    items: jax.Array
    labels: jax.Array
    length: jax.Array
    longest: jax.Array

    @property
    def store(self):
        return Store(self.items.shape[0])


@dataclass(frozen=True)
class Store:
    longest: int


def listed(items, labels=None, length=None) -> Listed:
    length = len(items) if length is None else length
    labels = np.arange(len(items)) % 2 if labels is None else labels
    return Listed(jnp.int32(items), jnp.float32(labels), jnp.int32(length), jnp.int32(length))


EXAMPLES = Batches(
    lambda data: data.length,
    lambda store: store.longest,
    lambda seed, data, q: {"items": data.items[q], "labels": data.labels[q]},
    {"items": 1},
)
DATA = listed([3, 8, 3, 21, 29, 0, 14])


def trained(model, optimizer, data=DATA, private=None, **kwargs):
    """(shared, private before, private after, upload) of one client."""
    shared, fresh = model.init(KEY)
    private = fresh if private is None else private
    client = clients.local_training(model, EXAMPLES, optimizer, **kwargs)
    after, upload = jax.jit(client.update)(KEY, private, shared, data, FIRST)
    return shared, private, after, upload


def order_of(data, batch_size, epoch=0):
    """Numbers of the examples, batch by batch, as drawn."""
    seed = keys.words(keys.stream(KEY, "examples"), 4)
    n = int(data.length)
    place = jnp.arange(n, dtype=jnp.uint32)
    order = np.asarray(keys.permute(place, jnp.uint32(n), keys.mix(seed[:2] + jnp.uint32(epoch))))
    return [order[i : i + batch_size] for i in range(0, n, batch_size)]


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def test_alternating_updates_see_the_updated_scorer():
    """PFedRec: per batch a step on the scorer, then one on the items with the new scorer."""
    model = models.pfedrec(ITEMS, width=WIDTH)
    optimizers = [
        clients.groups({"private": clients.sgd(0.7)}),
        clients.groups({"item": clients.sgd(2.0)}),
    ]
    shared, private, after, upload = trained(model, optimizers, batch_size=3)
    w = np.asarray(private["weight"][0], np.float64)
    b = float(private["bias"][0])
    q = np.asarray(shared["item"].values, np.float64)
    table, total = q.copy(), 0.0
    for numbers in order_of(DATA, 3):
        i, y = np.asarray(DATA.items)[numbers], np.asarray(DATA.labels)[numbers]
        z = table[i] @ w + b
        total += (np.log1p(np.exp(z)) - y * z).sum()
        slope = (sigmoid(z) - y) / len(i)
        w, b = w - 0.7 * slope @ table[i], b - 0.7 * slope.sum()
        slope = (sigmoid(table[i] @ w + b) - y) / len(i)
        np.subtract.at(table, i, 2.0 * slope[:, None] * w)
    np.testing.assert_allclose(after["weight"][0], w, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(after["bias"][0], b, rtol=1e-4, atol=1e-6)
    change = rows.to_dense(upload.update["item"].delta())
    np.testing.assert_allclose(change, table - q, rtol=1e-3, atol=2e-6)
    # The loss is that before the batch's first step.
    np.testing.assert_allclose(upload.metrics["loss"], total / 7, rtol=1e-5)
    assert float(upload.weight) == 7


@pytest.mark.parametrize(
    ("passes", "negatives", "told"),
    [
        (Passes(), 2**29, r"examples of one client are more.*draw fewer negatives"),
        (Passes(epochs=2**29, batch_size=2), 1, r"batches of one client in a round are more"),
        (Passes(steps=2**31), 1, r"batches of one client in a round are more"),
    ],
)
def test_more_than_an_int32_counts_is_refused(passes, negatives, told):
    many = replace(EXAMPLES, most=lambda store: store.longest * (1 + negatives))
    with pytest.raises(ValueError, match=rf"^\d+ {told}"):
        turns_of(many, passes, KEY, DATA)


def test_a_schedule_may_begin_at_0():
    warm = clients.scheduled(clients.sgd, lambda round: 0.1 * round)
    assert float(warm.rate("shared/item", FIRST)) == 0
    assert float(warm.rate("shared/item", now(3))) == pytest.approx(0.3)
    with pytest.raises(ValueError, match=r"schedule\(0\)=-1\) is too small"):
        clients.scheduled(clients.sgd, lambda round: round - 1)


def test_groups_have_rates_of_their_own():
    """One full batch, one gradient: each group moves by its own rate."""
    model = models.neumf(ITEMS, width=WIDTH, layers=(4,))
    joint = trained(model, clients.sgd(1.0), batch_size=8)
    rates = {"private": 0.5, "halves/0/item": 2.0, "shared/readout/bias": 0.25}
    grouped = trained(
        model, clients.groups({n: clients.sgd(r) for n, r in rates.items()}), batch_size=8
    )
    for name in ("0", "1"):
        start = joint[1]["halves"][name]["user"]
        a, b = (x[2]["halves"][name]["user"] - start for x in (joint, grouped))
        np.testing.assert_allclose(b, 0.5 * a, rtol=1e-3, atol=1e-7)
    a, b = joint[3].update, grouped[3].update
    first, second = (
        [rows.to_dense(u["halves"][name]["item"].delta()) for u in (a, b)] for name in ("0", "1")
    )
    np.testing.assert_allclose(first[1], 2 * first[0], rtol=1e-3, atol=1e-6)
    assert np.abs(np.asarray(second[0])).max() > 1e-4 and not np.asarray(second[1]).any()
    np.testing.assert_allclose(b["readout"]["bias"], 0.25 * a["readout"]["bias"], rtol=1e-4)
    assert not np.asarray(b["readout"]["kernel"]).any()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({}, r"groups\(optimizers=\{\}\) trains nothing"),
        ({"privat": clients.sgd(1.0)}, r"groups\('privat': ...\) matches no parameter"),
        ({"shared": clients.sgd(1.0), "it": clients.sgd(1.0)}, r"'it'.*there are .*shared/item"),
    ],
)
def test_groups_that_match_nothing_are_named(names, message):
    with pytest.raises(ValueError, match=message):
        trained(models.fedmf(ITEMS, width=WIDTH), clients.groups(names))


def test_a_misspelt_group_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"did you mean 'shared/item'\?"):
        trained(models.fedmf(ITEMS), clients.groups({"shared/itm": clients.sgd(1.0)}))


def test_what_is_no_optimizer_is_refused():
    with pytest.raises(TypeError, match=r"optimizer=0.1 is no local optimizer"):
        as_local(0.1)
    with pytest.raises(ValueError, match=r"sgd\(learning_rate=0\)"):
        clients.sgd(0)
    model = models.fedmf(ITEMS)
    for bad in ({"epochs": 0}, {"batch_size": 0}, {"steps": 0}):
        with pytest.raises(ValueError, match=rf"local_training\({next(iter(bad))}=0\)"):
            clients.local_training(model, EXAMPLES, clients.sgd(0.1), **bad)


def test_an_optax_transform_is_taken_as_it_is():
    """It is a NamedTuple, and so a sequence too."""
    model = models.fedmf(ITEMS, width=WIDTH)
    a = trained(model, optax.adam(0.05), batch_size=8)
    b = trained(model, clients.from_optax(optax.adam(0.05)), batch_size=8)
    np.testing.assert_array_equal(a[2]["user"], b[2]["user"])


def params():
    table = LocalTable(jnp.ones((5, 2)), None, jnp.zeros(5, bool))
    gradient = RowsGradient(jnp.int32([1, 3, 1]), jnp.ones((3, 2)))
    return {"item": table, "w": jnp.ones(3)}, {"item": gradient, "w": jnp.full(3, 2.0)}


def test_sgd_adds_up_repeated_rows():
    before, gradients = params()
    _, after = clients.sgd(0.1).apply((), before, gradients, True, FIRST)
    np.testing.assert_allclose(after["item"].values[:, 0], [1, 0.8, 1, 0.9, 1], rtol=1e-6)
    np.testing.assert_allclose(after["w"], 0.8, rtol=1e-6)


@pytest.mark.parametrize("transform", [optax.adam(0.1), optax.sgd(0.1, momentum=0.9)])
def test_from_optax_equals_optax_on_dense_arrays(transform):
    before, gradients = params()
    local = clients.from_optax(transform)
    state = local.init(before, FIRST)
    dense = {"item": before["item"].values, "w": before["w"]}
    whole = {"item": jnp.zeros((5, 2)).at[jnp.int32([1, 3, 1])].add(1.0), "w": gradients["w"]}
    reference = transform.init(dense)
    for _ in range(3):
        state, before = local.apply(state, before, gradients, jnp.bool_(True), FIRST)
        updates, reference = transform.update(whole, reference, dense)
        dense = optax.apply_updates(dense, updates)
    np.testing.assert_allclose(before["item"].values, dense["item"], rtol=1e-6)
    np.testing.assert_allclose(before["w"], dense["w"], rtol=1e-6)


@pytest.mark.parametrize("transform", [optax.adam(0.1), optax.sgd(0.1, momentum=0.9)])
def test_a_batch_of_padding_changes_nothing_under_optax(transform):
    before, gradients = params()
    local = clients.from_optax(transform)
    state = local.init(before, FIRST)
    state, before = local.apply(state, before, gradients, jnp.bool_(True), FIRST)
    zero = jax.tree.map(lambda x: x * 0, gradients)
    kept, after = local.apply(state, before, zero, jnp.bool_(False), FIRST)
    for a, b in zip(jax.tree.leaves((state, before)), jax.tree.leaves((kept, after)), strict=True):
        np.testing.assert_array_equal(a, b)


def short_client(model, optimizer, length):
    """What 4 of 7 examples (or none) train alone, and beside a client of 7: two epochs each.

    How padding fills the slots behind the live rows is nobody's business, so rows are dense.
    """
    shared, private = model.init(KEY)
    client = clients.local_training(model, EXAMPLES, optimizer, epochs=2, batch_size=2)
    update = jax.jit(client.update)
    short = listed([3, 8, 3, 21, 29, 0, 14], length=length)
    out = []
    for longest in (max(length, 1), 7):
        data = replace(short, longest=jnp.int32(longest))
        after, upload = update(KEY, private, shared, data, FIRST)
        change = rows.to_dense(upload.update["item"].delta())
        out.append((after["user"], change, upload.metrics["loss"], upload.weight))
    return private["user"], *out


@pytest.mark.parametrize(
    "optimizer", [clients.sgd(0.5), clients.from_optax(optax.adam(0.05))], ids=["sgd", "adam"]
)
def test_waiting_for_the_longest_of_the_chunk_changes_nothing(optimizer):
    model = models.fedmf(ITEMS, width=WIDTH)
    _, alone, waiting = short_client(model, optimizer, 4)
    for x, y in zip(alone, waiting, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7)
    start, *both = short_client(model, optimizer, 0)
    for user, change, loss, weight in both:
        np.testing.assert_array_equal(user, start)
        assert not np.asarray(change).any() and float(loss) == 0 == float(weight)


def decayed(loss):
    """Also decays the user vector, padding or not."""
    return lambda shared, private, batch, key: (
        loss(shared, private, batch, key) + 0.1 * (private["user"] ** 2).sum()
    )


def noisy(loss):
    """Uses its key, as dropout does."""
    return lambda shared, private, batch, key: (
        loss(shared, private, batch, key) * (1 + jax.random.uniform(key))
    )


@pytest.mark.parametrize("change", [decayed, noisy], ids=lambda f: f.__name__)
def test_waiting_changes_nothing_whatever_the_loss(change):
    """Else a client's result depends on who shares its chunk."""
    model = models.fedmf(ITEMS, width=WIDTH)
    model = replace(model, loss=change(model.loss))
    _, alone, waiting = short_client(model, clients.sgd(0.5), 4)
    for x, y in zip(alone, waiting, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_steps_are_taken_whatever_the_size():
    """Six steps of batches of 3 on 7 examples are two epochs; one step touches its batch alone."""
    model = models.fedmf(ITEMS, width=WIDTH)
    two = trained(model, clients.sgd(0.5), epochs=2, batch_size=3)
    six = trained(model, clients.sgd(0.5), steps=6, batch_size=3)
    np.testing.assert_allclose(two[2]["user"], six[2]["user"], rtol=1e-6)
    single = trained(model, clients.sgd(0.5), steps=1, batch_size=3)
    touched = {int(i) for i in np.asarray(DATA.items)[order_of(DATA, 3)[0]]}
    item = single[3].update["item"].delta()
    live = np.asarray(item.live)
    ids = np.arange(ITEMS) if item.ids is None else np.asarray(item.ids)
    assert set(ids[live].tolist()) == touched


@pytest.mark.parametrize("items", [ITEMS, 5], ids=["compact", "whole"])
def test_the_probe_scores_with_the_clients_own_rows(items):
    model = models.fedmf(items, width=WIDTH)
    data = listed([3, 1, 3, 4, 0, 0, 2])

    def probe(scorer, data):
        score = scorer()
        return {"all": score(slice(None)), "some": score(jnp.int32([4, 1]), 0)}

    shared, _, after, upload = trained(model, clients.sgd(0.5), data, probe=probe, batch_size=8)
    own = np.asarray(shared["item"].values + rows.to_dense(upload.update["item"].delta()))
    want = own @ np.asarray(after["user"][0])
    np.testing.assert_allclose(upload.metrics["all"], want, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(upload.metrics["some"], want[[4, 1]], rtol=1e-4, atol=1e-6)


def test_a_table_of_a_field_the_batches_lack_is_named():
    model = models.fedmf(ITEMS)

    def init(key, common=None):
        shared, private = model.init(key, common)
        return {"item": replace(shared["item"], fields=("sessions",))}, private

    with pytest.raises(ValueError, match=r"batch\['sessions'\].*they have 'items'"):
        trained(replace(model, init=init), clients.sgd(0.1))


def test_private_parameters_differ_between_clients_and_not_between_calls():
    client = clients.local_training(models.fedmf(ITEMS), EXAMPLES, clients.sgd(0.1))
    a, b, c = (client.init(KEY, jnp.int32(i))["user"] for i in (0, 1, 0))
    assert (a != b).any()
    np.testing.assert_array_equal(a, c)


@pytest.mark.parametrize("transform", [optax.sgd(0.5), optax.adam(0.1)], ids=["sgd", "adam"])
def test_accumulated_small_batches_are_a_large_one(transform):
    """Six examples in batches of 2, three to a step, and at once; two epochs."""
    model, data = models.fedmf(ITEMS, width=WIDTH), listed([3, 8, 3, 21, 29, 0])
    small = clients.accumulated(transform, 3)
    a = trained(model, small, data, epochs=2, batch_size=2)
    b = trained(model, transform, data, epochs=2, batch_size=6)
    found, want = ((x[2], x[3].update, x[3].metrics["loss"]) for x in (a, b))
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)
    plain = trained(model, transform, data, epochs=2, batch_size=2)
    assert np.abs(plain[2]["user"] - b[2]["user"]).max() > 1e-3


def test_accumulated_needs_a_batch():
    with pytest.raises(ValueError, match=r"accumulated\(batches=0\)"):
        clients.accumulated(optax.sgd(0.1), 0)
