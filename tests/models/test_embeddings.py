"""Tables with fewer rows than ids: their formulas, and rounds on their touched rows as dense ones;
rows in bfloat16, whose small updates arrive."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from fedjax_rec import clients, data, models, rows, strategies
from fedjax_rec.models.click.embeddings import Hashes
from fedjax_rec.servers.stochastic import stochastic
from fedjax_rec.types import Cohort, Model

KEY = jax.random.key(1)
IDS = np.array([[0, 7, 7], [5, 99, 0]], np.int32)
CLIENTS = 6


class Sum(nnx.Module):
    """z = the sum of all entries of the vectors."""

    def __init__(self, ids, embedding, rngs):
        self.embedding = embedding.build(ids, 2, 0.5, "ids", rngs)

    def predict(self, batch):
        return self.embedding(batch).sum((1, 2))

    def loss(self, batch, key):
        return models.bce()(self.predict(batch), batch)


class Vectors(Sum):
    def predict(self, batch):
        return self.embedding(batch)


def of(kind, embedding, ids=300) -> Model:
    return models.from_nnx(lambda rngs: kind(ids, embedding, rngs))


def vectors(embedding):
    """(the vectors of IDS, the table of 100 ids), as the server's model has them."""
    model = of(Vectors, embedding, 100)
    shared, private = model.init(KEY)
    assert model.predict is not None
    found = model.predict(shared, private, {"ids": jnp.asarray(IDS)})
    return np.asarray(found), np.asarray(shared["embedding"]["table"].values, np.float32)


def test_a_row_each():
    found, table = vectors(models.rows_each())
    np.testing.assert_array_equal(found, table[IDS])


def test_hashed_is_the_signed_sum_of_its_rows():
    found, table = vectors(models.hashed(40, hashes=3, seed=5))
    hashes = Hashes(40, 3, 5)
    places, signs = np.asarray(hashes(IDS)), np.asarray(hashes.signs(IDS))
    assert table.shape == (40, 2) and places.shape == (2, 3, 3) and set(signs.flat) == {-1, 1}
    want = sum(signs[..., j, None] * table[places[..., j]] for j in range(3))
    np.testing.assert_allclose(found, want, rtol=1e-6)


def test_hashes_are_uniform_and_independent():
    hashes, ids = Hashes(rows=10, count=2, seed=3), jnp.arange(20_000)
    places, signs = np.asarray(hashes(ids)), np.asarray(hashes.signs(ids))
    together = np.histogram2d(places[:, 0], places[:, 1], bins=[range(11)] * 2)[0]
    # Of 100 cells with 200 each, chi^2 has mean 99 and deviation 14.
    assert 50 < ((together - 200) ** 2 / 200).sum() < 160
    assert abs(signs.mean(0)).max() < 0.03 and abs((signs[:, 0] * signs[:, 1]).mean()) < 0.03
    assert abs((signs * (places - 4.5)).mean(0)).max() < 0.1
    assert (places != np.asarray(Hashes(10, 2, seed=4)(ids))).mean() > 0.8


def test_quotient_and_remainder_tell_all_ids_apart():
    found, table = vectors(models.quotient_remainder(8))
    assert table.shape == (13 + 8, 2)
    np.testing.assert_allclose(found, table[IDS // 8] * table[13 + IDS % 8], rtol=1e-6)


def crowd(ids=300, n=48, each=3):
    rng = np.random.default_rng(0)
    fields = {"ids": rng.integers(0, ids, (n, each)), "labels": rng.integers(0, 2, n)}
    part = np.zeros(n, np.int8)
    found = data.Examples("few", fields, np.arange(n) % CLIENTS, part, ids, CLIENTS)
    return data.pack_examples(found).store


def after(model, rounds=2, optimizer=None, **kwargs):
    """(shared, info) after rounds of two epochs in batches of 4."""
    optimizer = optimizer or clients.sgd(0.3)
    strategy = strategies.fedavg(
        model, data.examples(), optimizer=optimizer, epochs=2, batch_size=4, **kwargs
    )
    state, info = strategy.init(KEY, CLIENTS), None
    step = jax.jit(strategy.round, compiler_options={"xla_backend_optimization_level": 0})
    for _ in range(rounds):
        state, info = step(KEY, state, Cohort(jnp.arange(CLIENTS), crowd()))
    return state.shared, info


def trained_whole(model: Model) -> Model:
    """`model` with its table a plain parameter, of which nothing is known to be rows."""
    table = jax.eval_shape(model.init, KEY)[0]["embedding"]["table"]
    back = lambda shared: {"embedding": {"table": rows.Table(shared["table"], table.fields)}}
    return Model(
        lambda key, common=None: ({"table": model.init(key)[0]["embedding"]["table"].values}, {}),
        lambda shared, private, batch, key: model.loss(back(shared), private, batch, key),
    )


@pytest.mark.parametrize(
    ("embedding", "optimizer"),
    [
        pytest.param(models.hashed(150, hashes=2), None, id="touched"),
        pytest.param(models.hashed(9, hashes=2), None, id="whole", marks=pytest.mark.slow),
        # A row that stands in a batch more than once counts once, with its sum, in the norm.
        pytest.param(
            models.quotient_remainder(3),
            optax.chain(optax.clip_by_global_norm(0.05), optax.sgd(1.0)),
            id="quotient and remainder, clipped",
        ),
    ],
)
def test_rounds_on_derived_rows_are_those_of_a_dense_table(embedding, optimizer):
    model = of(Sum, embedding)
    mine, info = after(model, optimizer=optimizer)
    dense, _ = after(trained_whole(model), optimizer=optimizer)
    assert abs(mine["embedding"]["table"].values - dense["table"]).max() < 2e-6
    assert (
        abs(
            mine["embedding"]["table"].values - model.init(KEY)[0]["embedding"]["table"].values
        ).max()
        > 0.1
    )
    if dense["table"].shape == (150, 2):
        # Each client sends the different rows that its 8 x 3 ids name, not 48 of them.
        ids = np.asarray(crowd().fields["ids"]).reshape(CLIENTS, -1)
        sent = [len(np.unique(np.asarray(Hashes(150, 2, 0)(i)))) for i in ids]
        spent = np.asarray(info.bytes_up) - 4 * 2 * np.array(sent)
        assert (spent > 0).all() and (spent < 60).all()  # the indices


def test_rows_of_bfloat16_train_in_float32_and_come_down_narrow():
    narrow_model, wide = (of(Sum, models.rows_each(d)) for d in ("bfloat16", "float32"))
    server = strategies.stochastic_step()
    mine, info = after(narrow_model, rounds=1, server=server)
    other, info_wide = after(wide, rounds=1)
    table, plain = mine["embedding"]["table"].values, other["embedding"]["table"].values
    assert table.dtype == jnp.bfloat16
    begun = narrow_model.init(KEY)[0]["embedding"]["table"].values
    assert begun.dtype == jnp.bfloat16
    # Both start from the same numbers but for the rounding to bfloat16, and end so.
    np.testing.assert_allclose(np.asarray(table, np.float32), plain, atol=0.02)
    half = np.asarray(info.bytes_down, int) - np.asarray(info_wide.bytes_down, int)
    touched = [len(np.unique(i)) for i in np.asarray(crowd().fields["ids"]).reshape(CLIENTS, -1)]
    np.testing.assert_array_equal(half, -2 * 2 * np.array(touched))
    np.testing.assert_array_equal(info.bytes_up, info_wide.bytes_up)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_a_round_changes_a_large_table_in_place(dtype):
    """By XLA's memory analysis of a donated state: no second table of float32, and little beside
    it; of bfloat16 on a CPU one copy of its bits, not the float32 one that scatters make."""
    size = 10**6
    model = of(Sum, models.rows_each(dtype), size)
    strategy = strategies.fedavg(
        model, data.examples(), optimizer=clients.sgd(0.3), batch_size=8, clients_per_chunk=2,
        server=strategies.step() if dtype == "float32" else strategies.stochastic_step(),
    )  # fmt: skip
    state = jax.eval_shape(lambda: strategy.init(KEY, CLIENTS))
    table = state.shared["embedding"]["table"].values
    everyone = Cohort(jnp.arange(CLIENTS), crowd(size))
    options = {"xla_backend_optimization_level": 0}
    one = jax.jit(lambda s: strategy.round(KEY, s, everyone), donate_argnums=0)
    analysis = one.lower(state).compile(compiler_options=options).memory_analysis()
    nbytes = table.size * table.dtype.itemsize
    assert analysis.output_size_in_bytes > nbytes
    assert analysis.output_size_in_bytes - analysis.alias_size_in_bytes < nbytes / 100
    copies = 0 if dtype == "float32" else 1
    assert analysis.temp_size_in_bytes < (copies + 0.01) * nbytes


def test_bfloat16_rows_are_read_as_they_are_and_have_slopes():
    table = jnp.asarray(np.random.default_rng(0).normal(size=(9, 3)), jnp.bfloat16)
    table, ids = table.at[2, 1].set(jnp.inf), jnp.array([[2, 8], [8, 0]])
    read = lambda values: rows.Table(values)[ids]
    np.testing.assert_array_equal(read(table), np.asarray(table, np.float32)[np.asarray(ids)])
    slopes = jax.grad(lambda values: read(values)[..., 0].sum())(table)
    assert slopes.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(slopes[:, 0], int), [1, 0, 1, 0, 0, 0, 0, 0, 2])


def update(rng, clients_of_row=4, rows_of_table=50, width=8, scale=1e-3):
    """Rows of several clients, one after another, and their dense sum."""
    ids = rng.integers(0, rows_of_table, 20 * clients_of_row).astype(np.int32)
    ids[::9] = rows_of_table  # padding
    values = (scale * rng.normal(size=(len(ids), width))).astype(np.float32)
    total = np.zeros((rows_of_table + 1, width))
    np.add.at(total, ids, 0.5 * values)
    live = jnp.asarray(ids < rows_of_table)
    change = rows.RowsUpdate(
        jnp.asarray(values), jnp.asarray(ids), live, None, rows_of_table, jnp.float32(0.5)
    )
    return change, total[:-1], ids


def test_the_sum_of_a_row_is_rounded_once():
    """To the nearest it is the bfloat16 of the float32 sum: no client's share is lost before."""
    rng = np.random.default_rng(0)
    change, total, _ = update(rng, scale=0.02)
    table = jnp.asarray(rng.normal(size=total.shape), jnp.bfloat16)
    found = rows.add_to(table, change)
    want = jnp.asarray(np.asarray(table, np.float32) + total.astype(np.float32), jnp.bfloat16)
    # One that lies between two may go either way by the order of the sum.
    assert (np.asarray(found) == np.asarray(want)).mean() > 0.99
    apart = np.abs(np.asarray(found, np.float32) - np.asarray(want, np.float32))
    assert (apart <= 2.0**-7 * np.abs(np.asarray(want, np.float32))).all()


def test_stochastic_rounding_is_unbiased_and_leaves_untouched_rows():
    rng = np.random.default_rng(1)
    change, total, ids = update(rng, scale=2e-4)
    table = jnp.asarray(1.0 + rng.random(total.shape), jnp.bfloat16)
    before = np.asarray(table, np.float32)
    once = lambda key: rows.add_to(table, change, rounding=stochastic(key))
    found = np.asarray(jax.vmap(once)(jax.random.split(KEY, 4000)), np.float32)
    untouched = np.setdiff1d(np.arange(len(total)), ids)
    assert len(untouched) and (found[:, untouched] == before[untouched]).all()
    # A unit in the last place is 2^-7 here, so nearest rounding moves nothing.
    assert (np.asarray(rows.add_to(table, change), np.float32) == before).all()
    share = np.abs(total) / 2.0**-7
    deviation = 2.0**-7 * np.sqrt(share * (1 - share) / 4000)
    assert (np.abs(found.mean(0) - before - total) < 5 * deviation + 1e-6).all()


def test_small_updates_arrive_over_rounds():
    """A thousand steps of a tenth of half a unit: stochastic rounding gets there, nearest stays."""
    model = {"table": rows.Table(jnp.ones((1, 64), jnp.bfloat16))}
    step = 2.0**-8 / 10
    change = rows.RowsUpdate(jnp.full((1, 64), step), jnp.zeros(1, int), jnp.ones(1, bool), None, 1)
    ends = []
    for server in (strategies.stochastic_step(), strategies.step()):
        go = lambda carry, _, s=server: (s.apply(*carry, {"table": change}), None)
        (_, shared), _ = jax.lax.scan(go, (server.init(model), model), None, length=1000)
        ends.append(np.asarray(shared["table"].values, np.float32))
    assert abs(ends[0].mean() - (1 + 1000 * step)) < 0.02
    assert (ends[1] == 1).all()


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: models.hashed(0), r"hashed\(rows=0\)"),
        (lambda: models.hashed(5, hashes=0), r"hashed\(hashes=0\)"),
        (lambda: models.quotient_remainder(0), r"modulus=0"),
        (lambda: models.rows_each("int8"), r"dtype='int8'"),
    ],
)
def test_impossible_tables_are_refused(make, complaint):
    with pytest.raises(ValueError, match=complaint):
        make()
