"""Batches of everything are as long as they have to be, and tables of which a client may touch a
good part are copied whole: the same numbers in less time."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from alone import BASE, EXAMPLES, KEY, Listed, agree, changed, factorization, numbers, updated

from fedjax_rec import clients, data, models, strategies
from fedjax_rec.clients import batches
from fedjax_rec.clients.batches import Passes, localize, sizes_of, turns_of
from fedjax_rec.data.splits import TEST, TRAIN, Split
from fedjax_rec.types import Cohort

MOST = 1500
RNG = np.random.default_rng(0)
ITEMS = RNG.integers(0, 5, MOST).astype(np.int32)
LABELS = RNG.normal(size=MOST).astype(np.float32)


def of_length(n: int, longest: int | None = None) -> Listed:
    longest = n if longest is None else longest
    return Listed(
        jnp.asarray(ITEMS), jnp.asarray(LABELS), jnp.int32(n), jnp.int32(longest), jnp.int32(0)
    )


def sized(items: int):
    """`factorization` whose loss says how long its batch is, beside what it trains on."""
    model = factorization(items)
    loss = lambda shared, private, batch, key: (
        model.loss(shared, private, batch, key) + 1000.0 * batch["mask"].shape[0]
    )
    return replace(model, loss=loss)


def unequal(items: int, lengths: list[int]) -> data.Dataset:
    """Packed: user u has lengths[u] training interactions."""
    drawn = [np.sort(RNG.permutation(items)[: n + 1]) for n in lengths]
    users = np.repeat(np.arange(len(lengths)), [len(x) for x in drawn])
    found = data.Interactions(
        "unequal", users.astype(np.int32), np.concatenate(drawn).astype(np.int32),
        np.arange(len(users), dtype=float), np.ones(len(users), np.float32),
        np.arange(len(lengths)).astype(str), np.arange(items).astype(str),
    )  # fmt: skip
    part = np.full(len(users), TRAIN, np.int8)
    part[np.cumsum([len(x) for x in drawn]) - 1] = TEST
    return data.pack(Split(found, part), evaluation_negatives=0)


def test_sizes_are_few_and_end_with_what_was_asked_for():
    assert [sizes_of(n) for n in (1, 256)] == [[1], [256]]
    for n in (257, 700, 1474, 10**6):
        sizes = sizes_of(n)
        assert sizes[-1] == n and sizes[0] == batches.SMALLEST
        assert all(a < b <= 8 * a for a, b in itertools.pairwise(sizes)), sizes


@pytest.mark.parametrize(
    ("n", "longest", "size"),
    [
        (1, 1, 128),
        (128, 128, 128),
        (3, 129, 512),
        (129, 129, 512),
        (512, 512, 512),
        (900, 1025, 1500),
    ],
)
def test_a_step_on_everything_is_that_of_numpy_in_the_smallest_batch_that_holds_it(
    n, longest, size
):
    model = sized(5)
    client = clients.local_training(model, EXAMPLES, clients.sgd(0.3), batch_size=10_000)
    shared, private = model.init(KEY)
    after, upload = updated(client, shared, private, of_length(n, longest))
    x, i, y = numbers(shared, private), ITEMS[:n], LABELS[:n].astype(float)
    slope = 2 * (x["q"][i] @ x["p"] + x["b"] + BASE - y) / n
    q = np.zeros_like(x["q"])
    np.add.at(q, i, slope[:, None] * x["p"])
    gradient = {"q": q, "b": slope.sum(), "p": slope @ x["q"][i]}
    agree(changed(upload, shared, after), {k: x[k] - 0.3 * gradient[k] for k in "qbp"})
    assert float(upload.metrics["loss"]) // 1000 == size
    assert float(upload.weight) == n


def test_smaller_batches_are_the_same_round(monkeypatch):
    """With negatives, several epochs, clients of 2 to 700 examples, in chunks of 1 and 4."""
    users = unequal(900, [2, 3, 20, 140, 30, 5, 60, 12])
    model = models.fedmf(users.num_items, width=4, scale=0.3)

    def played(chunk: int):
        strategy = strategies.fedmf(
            model, data.pointwise(4), user_learning_rate=3.0, item_learning_rate=3.0,
            epochs=2, batch_size=5_000, clients_per_chunk=chunk,
        )  # fmt: skip
        state = strategy.init(KEY, users.num_clients)
        cohort = Cohort(jnp.arange(users.num_clients), users.store)
        for _ in range(2):
            state = jax.jit(strategy.round)(KEY, state, cohort)[0]
        return state

    found = [played(1), played(4)]
    monkeypatch.setattr(batches, "SMALLEST", 10**6)
    want = played(4)
    for state in found:
        for a, b in zip(*map(jax.tree.leaves, (state.shared, want.shared)), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.parametrize(("items", "copied"), [(80, True), (81, False)])
def test_a_table_is_copied_where_a_client_may_touch_a_quarter_of_it(items, copied):
    model = models.fedmf(items, width=4)
    store = unequal(items, [4, 20, 7]).store
    one = store.take(jnp.int32(1))
    assert data.ratings().most(store) == 20

    local = localize(model.init(KEY)[0], turns_of(data.ratings(), Passes(), KEY, one))
    assert (local["item"].ids is None) is copied
