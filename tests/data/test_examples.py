"""Labelled examples: grouped by client, laid down once, drawn as they are."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from fedjax_rec import data, keys, models, strategies
from fedjax_rec.data.splits import TEST, TRAIN, VALIDATION
from fedjax_rec.types import Cohort

N = 5
KEY = jax.random.key(3)


def found(n=60, rows=400, seed=0) -> data.Examples:
    """Client k holds about 2k of 30 examples; the last client nothing to train on."""
    rng = np.random.default_rng(seed)
    client = np.minimum((rng.random(n) ** 0.5 * N).astype(int), N - 1)
    part = rng.choice([TRAIN, TRAIN, TRAIN, VALIDATION, TEST], n).astype(np.int8)
    part[client == N - 1] = TEST
    fields = {
        "ids": rng.integers(0, rows, (n, 3)),
        "dense": rng.normal(size=(n, 2)),
        "labels": rng.integers(0, 2, n),
    }
    return data.Examples("found", fields, client, part, rows, N)


def test_an_epoch_is_each_example_of_the_client_once_in_all_fields():
    given = found()
    store = data.pack_examples(given).store
    assert store.ids == {"ids": 3}  # labels are floats on the device
    batches, ids = data.examples(), jnp.array([3, N, 1, 4])

    def one(mine):
        order = jnp.arange(store.longest, dtype=jnp.uint32)
        return batches.draw(keys.words(KEY, 2), mine, order), batches.count(mine)

    drawn, count = jax.vmap(one, in_axes=(store.axes(),))(store.take(ids))
    for row, client in enumerate(ids.tolist()):
        where = np.flatnonzero((given.client == client) & (given.part == TRAIN))
        assert count[row] == len(where)
        for name, x in given.fields.items():
            np.testing.assert_allclose(drawn[name][row][: len(where)], x[where], rtol=1e-6)


def test_held_out_examples_know_their_client():
    given = found()
    packed = data.pack_examples(given)
    for held, part in ((packed.validation, VALIDATION), (packed.test, TEST)):
        where = np.flatnonzero(given.part == part)
        whose = np.asarray(held.clients)[np.asarray(held.owner)]
        assert (np.diff(whose) >= 0).all() and len(whose) == len(where)
        for client, count in zip(held.clients.tolist(), held.count.tolist(), strict=True):
            mine = where[given.client[where] == client]
            assert count == len(mine)
            np.testing.assert_array_equal(held.fields["ids"][whose == client],
                                          given.fields["ids"][mine])  # fmt: skip


class Logistic(nnx.Module):
    """z = sum of the weights of three ids + dense . w + the client's own bias."""

    def __init__(self, rows):
        self.table = models.Rows(jnp.zeros((rows, 1)), fields=("ids",))
        self.weights = nnx.Param(jnp.zeros(2))
        self.bias = models.Private(jnp.zeros(()))

    def predict(self, batch):
        ids = self.table[batch["ids"]].sum((1, 2))
        return ids + batch["dense"] @ self.weights[...] + self.bias[...]

    def loss(self, batch, key):
        return models.bce()(self.predict(batch), batch)


# Touched rows, and tables that clients hold whole.
@pytest.mark.parametrize("rows", [400, pytest.param(30, marks=pytest.mark.slow)])
def test_a_round_is_the_numpy_loop_over_clients(rows):
    given = found(rows=rows)
    store, rate = data.pack_examples(given).store, 0.5
    model = models.from_nnx(lambda rngs: Logistic(rows))
    strategy = strategies.fedavg(model, data.examples(), optimizer=optax.sgd(rate), epochs=2)
    state = strategy.init(KEY, N)
    table, weights, bias = np.zeros(rows), np.zeros(2), np.zeros(N)
    one_round = jax.jit(strategy.round, compiler_options={"xla_backend_optimization_level": 0})
    for _ in range(2):
        state, info = one_round(KEY, state, Cohort(jnp.arange(N), store))
        sums, total = [np.zeros(rows), np.zeros(2)], 0
        for k in range(N):
            where = np.flatnonzero((given.client == k) & (given.part == TRAIN))
            ids, x, y = (given.fields[name][where] for name in ("ids", "dense", "labels"))
            t, w, n = table.copy(), weights.copy(), len(where)
            for _ in range(2 if n else 0):
                slope = (1 / (1 + np.exp(-(t[ids].sum(1) + x @ w + bias[k]))) - y) / n
                w = w - rate * slope @ x
                bias[k] -= rate * slope.sum()
                np.add.at(t, ids, -rate * slope[:, None])
            sums = [sums[0] + n * (t - table), sums[1] + n * (w - weights)]
            total += n
        table, weights = table + sums[0] / total, weights + sums[1] / total
        assert info.weight.sum() == total
    np.testing.assert_allclose(state.shared["table"].values[:, 0], table, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(state.shared["weights"], weights, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(state.private["bias"], bias, rtol=1e-4, atol=1e-6)


def test_every_other_example_is_a_view():
    store = data.pack_examples(found()).store
    place, size = store.start[2], store.length[2]
    mine = data.ClientData(store, jnp.int32(2), place, size, size)
    halves = [data.support(data.examples()), data.query(data.examples())]
    seen = []
    for half in halves:
        order = jnp.arange(int(half.count(mine)), dtype=jnp.uint32)
        seen.append(np.asarray(half.draw(keys.words(KEY, 2), mine, order)["dense"]))
        assert half.ids_in(store) == {"ids": 3}
    whole = store.fields["dense"][int(mine.start) : int(mine.start + mine.length)]
    np.testing.assert_array_equal(seen[0], whole[::2])
    np.testing.assert_array_equal(seen[1], whole[1::2])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"fields": {"ids": np.zeros((3, 2), int)}}, "no field 'labels'"),
        ({"fields": {"labels": np.zeros(2)}}, "unequal length"),
        ({"fields": {"labels": np.array([0, 1, 0.5])}}, "other than 0 and 1"),
        ({"client": np.array([0, 1, 5])}, "names client 5"),
        ({"client": np.array([0, -1, 1])}, "names client -1"),
    ],
)
def test_bad_records_are_refused(change, complaint):
    fields = {"labels": np.zeros(3)}
    given = {"fields": fields, "client": np.zeros(3, int), "part": np.zeros(3, np.int8), **change}
    with pytest.raises(ValueError, match=complaint):
        data.Examples("bad", **given, num_clients=2)


def test_nothing_to_train_on_is_refused():
    given = data.Examples("all test", {"labels": np.zeros(3)}, np.zeros(3, int), np.full(3, TEST))
    with pytest.raises(ValueError, match="no training example"):
        data.pack_examples(given)
