"""Low rank in a space from a seed: unbiased, a projection, the same at both ends, trained in."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rounds import FIRST, now

from fedjax_rec import clients, models, strategies, wire
from fedjax_rec.bases import random_rows
from fedjax_rec.clients.subspace import subspace
from fedjax_rec.compress.subspace import seeded_low_rank, seeded_projection
from fedjax_rec.data import batches, pack, synthetic
from fedjax_rec.data.splits import leave_one_out
from fedjax_rec.rows import LocalTable, RowsGradient, RowsUpdate, to_dense
from fedjax_rec.types import Cohort
from fedjax_rec.wire import Live

KEY = jax.random.key(6)
N, D, RANK = 9, 16, 4
FAST = {"xla_backend_optimization_level": 0}
blank = functools.partial(jax.tree.map, jnp.zeros_like)


def one_trip(compressor, update, round=0):
    """(packet, what is decoded of it)."""
    packet = compressor.encode(KEY, compressor.init(update), update, now(round))[1]
    return packet, compressor.decode(packet, blank(update), now(round))


sent = jax.jit(one_trip, static_argnums=0, compiler_options=FAST)


@functools.partial(jax.jit, static_argnums=0)
def over_rounds(compressor, x):
    """[3000, ...]: what is decoded of x in as many rounds."""
    return jax.lax.map(lambda t: one_trip(compressor, x, t)[1], jnp.arange(3000), batch_size=500)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_rows_are_orthogonal_and_new_in_every_round():
    a = np.asarray(random_rows(3, 5, D, RANK))
    np.testing.assert_allclose(a @ a.T, D / RANK * np.eye(RANK), atol=1e-5)
    np.testing.assert_array_equal(a, random_rows(3, 5, D, RANK))
    np.testing.assert_array_equal(a, jax.jit(random_rows, static_argnums=(0, 2, 3))(3, 5, D, RANK))
    for other in (random_rows(3, 6, D, RANK), random_rows(4, 5, D, RANK)):
        assert np.abs(a - np.asarray(other)).max() > 0.5


def test_the_projection_is_unbiased_with_its_omega():
    """Over rounds: the mean in every coordinate, and |C(x) - x|^2 = (D/r - 1) |x|^2."""
    x = normal(N, D)
    back = np.asarray(over_rounds(seeded_projection(RANK, 1), jnp.float32(x)), np.float64)
    along = (back * x).sum((1, 2)) / (x**2).sum()
    assert abs(along.mean() - 1) < 5 * along.std() / 3000**0.5 < 0.02
    off = back.mean(0) - x
    assert (np.abs(off) < 5 * back.std(0) / 3000**0.5).all()
    errors = ((back - x) ** 2).sum((1, 2)) / (x**2).sum()
    assert errors.mean() == pytest.approx(D / RANK - 1, rel=0.02)


def test_the_fit_is_the_nearest_with_rows_in_the_space():
    """A least squares fit by NumPy; its error is 1 - r/D in the mean over rounds."""
    x = normal(N, D)
    a = np.float64(random_rows(2, 0, D, RANK))
    fit = np.linalg.lstsq(a.T, x.T, rcond=None)[0].T
    packet, back = sent(seeded_low_rank(RANK, 2), jnp.float32(x))
    np.testing.assert_allclose(packet.body, fit, atol=2e-5)
    np.testing.assert_allclose(back, fit @ a, atol=2e-5)
    backs = np.asarray(over_rounds(seeded_low_rank(RANK, 2), jnp.float32(x)), np.float64)
    errors = ((backs - x) ** 2).sum((1, 2)) / (x**2).sum()
    assert errors.mean() == pytest.approx(1 - RANK / D, rel=0.01)
    assert errors.max() < 1


def test_all_clients_share_the_space_so_that_means_commute():
    """The mean of what is decoded is what is decoded of the mean."""
    compressor = seeded_low_rank(RANK, 2)
    xs = normal(5, N, D)
    backs = [np.asarray(sent(compressor, jnp.float32(x), 3)[1]) for x in xs]
    together = sent(compressor, jnp.float32(xs.mean(0)), 3)[1]
    np.testing.assert_allclose(np.mean(backs, 0), together, atol=1e-5)


@pytest.mark.parametrize("make", [seeded_projection, seeded_low_rank])
def test_rows_and_entries_in_every_layout(make):
    """Each row by itself; rows that were not touched stay zero; narrow nodes travel as they are."""
    x, ids = normal(5, D), np.array([1, 4, 5, 8, 9])
    alone = np.asarray(sent(make(RANK), jnp.float32(x))[1])
    table, live = np.zeros((11, D)), np.isin(np.arange(11), ids)
    table[ids] = x
    values = jnp.float32(np.concatenate([x, np.zeros((2, D))]))
    update = {
        "whole": RowsUpdate(jnp.float32(table), None, jnp.asarray(live), None, 11),
        "few": RowsUpdate(values, jnp.int32([*ids, 9, 11]), jnp.arange(7) < 5, None, 11),
        "blocks": Live(values, jnp.arange(7) < 5),
        "cube": jnp.float32(table.reshape(11, 2, D // 2)),
        "narrow": jnp.float32(x[:, :RANK]),
        "vector": jnp.float32(x[0]),
        "scalar": jnp.float32(x[0, 0]),
    }
    packet, back = sent(make(RANK), update)
    np.testing.assert_allclose(back["whole"].values[ids], alone, atol=1e-5)
    assert back["whole"].ids is None and not np.asarray(back["whole"].values)[~live].any()
    np.testing.assert_allclose(to_dense(back["few"])[ids], alone, atol=1e-5)
    np.testing.assert_allclose(back["blocks"].values[:5], alone, atol=1e-5)
    assert back["cube"].shape == (11, 2, D // 2) and packet.body["cube"].shape == (11, 2, RANK)
    for name in ("narrow", "vector", "scalar"):
        np.testing.assert_array_equal(back[name], update[name])
    data = wire.to_bytes(packet)
    assert len(data) == int(wire.nbytes(packet))
    arrived = jax.tree.map(jnp.asarray, wire.from_bytes(data, packet))
    received = jax.jit(make(RANK).decode, compiler_options=FAST)(arrived, blank(update), FIRST)
    for name in ("whole", "few"):
        np.testing.assert_allclose(to_dense(received[name]), to_dense(back[name]), atol=1e-5)
    np.testing.assert_allclose(received["blocks"].values, back["blocks"].values[:5], atol=1e-5)
    np.testing.assert_allclose(received["cube"], back["cube"], atol=1e-5)


@pytest.mark.parametrize("make", [seeded_projection, seeded_low_rank])
def test_extreme_numbers(make):
    """Never an error above the guarantee; denormals are zeros to XLA."""
    compressor, most = make(RANK), D / RANK - 1 if make is seeded_projection else 1.0
    for factor in (0.0, 1e-40, 1e-30, 1e20):
        x = np.float32(factor * normal(N, D))
        back = np.float64(sent(compressor, jnp.asarray(x))[1])
        assert np.isfinite(back).all()
        norm, off = (np.float64(x) ** 2).sum(), ((back - x) ** 2).sum()
        assert off <= max(most, factor < 1e-38) * norm * 1.0001


def test_size_is_that_of_colr():
    """ML-1M, 3706 x 64: the table is 926.5 KiB, rank 1 is 14.5."""
    packet = sent(seeded_low_rank(1), jnp.zeros((3706, 64)))[0]
    assert int(wire.nbytes(packet)) == pytest.approx(14.5 * 1024, rel=0.002)


def trained(optimizer, round, steps=3):
    """(params before, after some steps): a table, a matrix, a bias and a private matrix."""
    ids, live = jnp.int32([2, 3, 7, 7]), jnp.asarray([True, True, True, False])
    draw = lambda *shape, seed: jnp.float32(normal(*shape, seed=seed))
    params = {
        "shared": {
            "item": LocalTable(draw(4, D, seed=1), ids, live),
            "kernel": draw(3, D, seed=2),
            "bias": draw(D, seed=3),
        },
        "private": draw(5, D, seed=4),
    }
    local = clients.optimizers.as_local(optimizer)
    state, after = local.init(params, now(round)), params
    for t in range(steps):
        gradients = {
            "shared": {
                "item": RowsGradient(jnp.int32([0, 2, 0]), draw(3, D, seed=10 + t)),
                "kernel": draw(3, D, seed=20 + t),
                "bias": draw(D, seed=30 + t),
            },
            "private": draw(5, D, seed=40 + t),
        }
        state, after = local.apply(state, after, gradients, jnp.bool_(True), now(round))
    return params, after


@pytest.mark.parametrize("plain", [clients.sgd(0.1), optax.sgd(0.1, momentum=0.9)])
def test_training_in_the_space_is_training_b(plain):
    """Q0 + B A after steps on B alone, dB = G A^T; the bias and the private matrix as ever."""
    params, after = trained(subspace(plain, RANK, seed=7), 5)
    a = np.float64(random_rows(7, 5, D, RANK))
    momentum, velocity, b = 0.0 if isinstance(plain, clients.Local) else 0.9, 0.0, 0.0
    for t in range(3):
        velocity = momentum * velocity + normal(3, D, seed=20 + t) @ a.T
        b = b - 0.1 * velocity
    before = np.asarray(params["shared"]["kernel"])
    np.testing.assert_allclose(after["shared"]["kernel"], before + b @ a, atol=1e-5)
    usual = trained(clients.from_optax(optax.sgd(0.1, momentum=momentum)), 5)[1]
    np.testing.assert_allclose(after["shared"]["bias"], usual["shared"]["bias"], atol=1e-6)
    np.testing.assert_allclose(after["private"], usual["private"], atol=1e-6)


def test_what_was_trained_in_the_space_arrives_without_loss():
    """In the same round; the space of another round loses most of it."""
    optimizer = clients.groups(
        {"shared": subspace(clients.sgd(0.1), RANK, 7), "private": optax.adam(1)}
    )
    params, after = trained(optimizer, 5)
    change = after["shared"]["item"].values - params["shared"]["item"].values
    assert np.abs(change).max() > 0.1
    update = RowsUpdate(change, after["shared"]["item"].ids, after["shared"]["item"].live, None, 9)
    for round, same in ((5, True), (4, False)):
        back = sent(seeded_low_rank(RANK, 7), update, round)[1]
        off = np.abs(back.values - change).max() / np.abs(change).max()
        assert off < 1e-5 if same else off > 0.1


@pytest.mark.slow
def test_rounds_in_the_space_are_lossless_at_a_fraction_of_the_bytes():
    """CoLR: the assembly gives client and uplink the same round, and with it the same space."""
    found = synthetic(num_users=6, num_items=30, interactions_per_user=5)
    data = pack(leave_one_out()(found), evaluation_negatives=0)
    model = models.fedmf(data.num_items, width=D)

    def play(uplink):
        optimizer = clients.groups(
            {"private": clients.sgd(0.5), "shared": subspace(clients.sgd(0.5), 2, 7)}
        )
        strategy = strategies.fedavg(
            model, batches.pointwise(2), optimizer=optimizer, batch_size=16, uplink=uplink
        )
        state, step = strategy.init(KEY, 6), jax.jit(strategy.round, compiler_options=FAST)
        moves = []
        for _ in range(2):
            before = state.shared["item"].values
            state, info = step(KEY, state, Cohort(jnp.arange(6), data.store))
            moves.append(np.float64(state.shared["item"].values - before))
        return moves, np.asarray(info.bytes_up)

    plain, dear = play(None)
    sent_moves, cheap = play(seeded_low_rank(2, 7))
    for a, b in zip(plain, sent_moves, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(a).max())
    assert (cheap < dear / 4).all()
    ranks = [
        np.linalg.matrix_rank(m, tol=1e-3 * np.abs(m).max())
        for m in (*plain, np.concatenate(plain))
    ]
    assert ranks == [2, 2, 4]  # a new space in every round


def test_wrong_arguments():
    for make, name in (
        (seeded_projection, "seeded_projection"),
        (seeded_low_rank, "seeded_low_rank"),
        (lambda rank: subspace(clients.sgd(1.0), rank), "subspace"),
    ):
        with pytest.raises(ValueError, match=rf"{name}\(rank=0\).*use rank >= 1"):
            make(0)
