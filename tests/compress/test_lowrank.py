"""Truncated SVD and one-shot PowerSGD: anchors, projections, warm starts, rows, sizes, arrival."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rounds import FIRST

from fedjax_rec import compress, wire
from fedjax_rec.bases import orthonormal
from fedjax_rec.compress.lowrank import power_sgd_one_shot, truncated_svd
from fedjax_rec.rows import RowsUpdate, to_dense
from fedjax_rec.wire import Live

KEY = jax.random.key(4)
N, D, RANK = 1024, 64, 4
FAST = {"xla_backend_optimization_level": 0}
blank = functools.partial(jax.tree.map, jnp.zeros_like)
BOTH = pytest.mark.parametrize("make", [truncated_svd, power_sgd_one_shot])


def harmonic(seed, n=N, width=D):
    """[n, width] with singular values 1, 1/2, 1/3, ... and random singular vectors."""
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.normal(size=(n, width)))[0]
    right = np.linalg.qr(rng.normal(size=(width, width)))[0]
    return (left / np.arange(1, width + 1)) @ right.T


def shrunk(x, rank):
    """The best approximation of rank `rank`, by NumPy in float64."""
    left, sigma, right = np.linalg.svd(np.float64(x), full_matrices=False)
    return (left[:, :rank] * sigma[:rank]) @ right[:rank]


def off(x, back) -> float:
    x, back = np.float64(x), np.float64(back)
    return ((back - x) ** 2).sum() / (x**2).sum()


@functools.partial(jax.jit, static_argnums=0, compiler_options=FAST)
def sent(compressor, update, memory=None):
    """(memory, packet, what is decoded of it)."""
    memory = compressor.init(update) if memory is None else memory
    memory, packet = compressor.encode(KEY, memory, update, FIRST)
    return memory, packet, compressor.decode(packet, blank(update), FIRST)


def gathered(x, ids, size, slots) -> RowsUpdate:
    """Rows x at `ids`, and dead slots behind them that repeat the last id and hold nothing."""
    dead = slots - len(ids)
    values = np.concatenate([x, np.zeros((dead, x.shape[1]))])
    ids = np.concatenate([ids, np.full(dead, ids[-1] if len(ids) else size)])
    return RowsUpdate(jnp.float32(values), jnp.int32(ids), jnp.arange(slots) < len(x), None, size)


def test_truncated_svd_is_the_best_of_its_rank():
    """The anchor: sum of 1 / i^2 beyond the fourth, .126."""
    x = harmonic(0)
    back = sent(truncated_svd(RANK), jnp.float32(x))[2]
    np.testing.assert_allclose(back, shrunk(x, RANK), atol=2e-6)
    tail = (1 / np.arange(RANK + 1, D + 1) ** 2).sum() / (1 / np.arange(1, D + 1) ** 2).sum()
    assert off(x, back) == pytest.approx(tail, rel=0.001) == pytest.approx(0.126, abs=0.0005)


def test_power_iteration_reaches_the_anchors():
    """Of rank 4: cold .304, the second round that starts warm .134; the best is .126.

    Power iteration in NumPy and float64 over 2,000 starts: .3014, .1432, .1327 with standard
    deviations .075, .012, .007.
    """
    compressor = power_sgd_one_shot(RANK)

    @jax.jit
    @jax.vmap
    def rounds(x):
        memory, backs = compressor.init(x), []
        for _ in range(3):
            memory, packet = compressor.encode(KEY, memory, x, FIRST)
            backs.append(compressor.decode(packet, x, FIRST))
        return backs

    xs = np.stack([harmonic(seed, 128) for seed in range(60)])
    errors = [
        [off(x, b) for x, b in zip(xs, back, strict=True)] for back in rounds(jnp.float32(xs))
    ]
    cold, warm, second = np.mean(errors, 1)
    assert cold == pytest.approx(0.3014, abs=4 * 0.075 / 60**0.5)
    assert warm == pytest.approx(0.1432, abs=4 * 0.012 / 60**0.5)
    assert (
        second == pytest.approx(0.1327, abs=4 * 0.007 / 60**0.5) == pytest.approx(0.134, abs=4e-3)
    )
    assert np.min(errors) > 0.126


def test_more_iterations_are_as_good_as_more_rounds():
    x = jnp.float32(harmonic(3, 128))
    one = power_sgd_one_shot(RANK)
    memory = sent(one, x)[0]
    np.testing.assert_allclose(
        sent(power_sgd_one_shot(RANK, 2), x)[2], sent(one, x, memory)[2], atol=1e-5
    )


@BOTH
def test_touched_rows_are_the_matrix_in_either_layout(make):
    """Rows in the table, rows gathered, `Live` entries: the same as the matrix of these alone."""
    rng = np.random.default_rng(1)
    ids = np.array([2, 5, 6, 11, 17, 30, 31])
    x = rng.normal(size=(7, 12))
    alone = np.asarray(sent(make(3), jnp.float32(x))[2])
    table = np.zeros((40, 12))
    table[ids] = x
    live = np.isin(np.arange(40), ids)
    whole = RowsUpdate(jnp.float32(table), None, jnp.asarray(live), None, 40)
    back = sent(make(3), whole)[2]
    assert back.ids is None and back.live.tolist() == live.tolist()
    np.testing.assert_allclose(np.asarray(back.values)[ids], alone, atol=2e-6)
    assert not np.asarray(back.values)[~live].any()
    few = sent(make(3), gathered(x, ids, 40, 10))[2]
    np.testing.assert_allclose(to_dense(few)[ids], alone, atol=2e-6)
    blocks = Live(jnp.float32(table[:32]), jnp.asarray(live[:32]))
    np.testing.assert_allclose(np.asarray(sent(make(3), blocks)[2].values)[ids], alone, atol=2e-6)


@BOTH
def test_dense_arrays_of_more_dimensions_are_all_but_the_last_by_the_last(make):
    x = np.random.default_rng(2).normal(size=(3, 4, 7))
    flat = sent(make(2), jnp.float32(x.reshape(12, 7)))[2]
    back = sent(make(2), jnp.float32(x))[2]
    assert back.shape == x.shape
    np.testing.assert_allclose(back.reshape(12, 7), flat, atol=1e-6)


@BOTH
def test_what_is_of_low_rank_already_is_lossless(make):
    rng = np.random.default_rng(3)
    update = {
        "scalar": jnp.float32(2.0),
        "vector": jnp.float32(rng.normal(size=9)),
        "narrow": jnp.float32(rng.normal(size=(20, 3))),
        "flat": jnp.float32(rng.normal(size=(2, 20))),
        "rows": gathered(rng.normal(size=(4, 3)), np.arange(4), 9, 6),
    }
    packet, back = sent(make(3), update)[1:]
    for a, b in zip(jax.tree.leaves(update), jax.tree.leaves(back), strict=True):
        np.testing.assert_array_equal(a, b)
    assert int(wire.nbytes(packet)) <= 4 * (1 + 9 + 60 + 40 + 12) + 30
    product = rng.normal(size=(30, 3)) @ rng.normal(size=(3, 10))
    warm = sent(make(3), jnp.float32(product))[2]
    np.testing.assert_allclose(warm, product, atol=2e-5)


CASES = {
    "one spike": lambda x: np.where(np.arange(x.size).reshape(x.shape) == 40, -3.0, 0.0),
    "all equal": lambda x: np.full(x.shape, 0.7),
    "all zero": lambda x: np.zeros(x.shape),
    "huge": lambda x: 1e20 * x,
    "tiny": lambda x: 1e-36 * x,
    "denormal": lambda x: np.full(x.shape, 1e-40),
    "one large row": lambda x: np.where(np.arange(len(x))[:, None] == 1, 1e6 * x, x),
}


@BOTH
@pytest.mark.parametrize("shape", [(12, 8), (8, 12), (3, 12)])
def test_a_contraction_on_any_matrix(make, shape):
    """And the truncated SVD at its own rate, 1 - r / min(n, D)."""
    compressor = make(2)

    rate = 1 - 2 / min(shape) if make is truncated_svd else 1.0
    for name, case in CASES.items():
        x = np.float32(case(np.random.default_rng(5).normal(size=shape)))
        y = np.float64(sent(compressor, x)[2])
        assert np.isfinite(y).all(), name
        norm = (np.float64(x) ** 2).sum()
        if name == "denormal":  # XLA reads these as zeros
            assert ((y - x) ** 2).sum() <= norm * 1.0001
        else:
            assert ((y - x) ** 2).sum() <= rate * norm * 1.0001 + 1e-12 * norm, name


def test_a_column_without_use_starts_again():
    """A matrix of rank 1 must not leave the second column at zero for the full ones to come; a
    round without any touched row changes nothing."""
    compressor = power_sgd_one_shot(2)
    x = np.random.default_rng(6).normal(size=(30, 8))
    memory = compressor.init(jnp.float32(x))
    memory, _, back = sent(compressor, jnp.float32(np.outer(x[:, 0], x[0])), memory)
    np.testing.assert_allclose(back, np.outer(x[:, 0], x[0]), atol=1e-5)
    assert (np.linalg.norm(memory[0], axis=0) > 0.5).all()
    again, _, back = sent(compressor, jnp.zeros((30, 8)), memory)
    assert not back.any()
    np.testing.assert_array_equal(again[0], memory[0])
    for _ in range(40):
        memory, _, back = sent(compressor, jnp.float32(x), memory)
    assert off(x, back) == pytest.approx(off(x, shrunk(x, 2)), rel=0.02)


def test_orthonormal_columns_and_nothing_for_dependent_ones():
    x = np.random.default_rng(7).normal(size=(50, 6))
    x[:, 2] = 3 * x[:, 0] - x[:, 1]
    x[:, 4] = 0
    x[:, 5] *= 1e-12
    q = np.asarray(orthonormal(jnp.float32(x)))
    gram = np.diag([1.0, 1, 0, 1, 0, 1])
    np.testing.assert_allclose(q.T @ q, gram, atol=2e-6)
    np.testing.assert_allclose(q @ (q.T @ x), x, atol=1e-5)


@BOTH
def test_size_is_that_of_the_formula(make):
    """32 r (n + D) bits, and the ids of touched rows."""
    packet = sent(make(RANK), jnp.zeros((N, D)))[1]
    assert int(wire.nbytes(packet)) == pytest.approx(4 * RANK * (N + D), rel=0.01)
    rng = np.random.default_rng(8)
    ids = np.sort(rng.choice(5000, 300, replace=False))
    packet = sent(make(RANK), gathered(rng.normal(size=(300, D)), ids, 5000, 400))[1]
    only_ids = wire.nbytes(gathered(np.zeros((300, 0)), ids, 5000, 400))
    formula = 4 * RANK * (300 + D) + int(only_ids)
    assert int(wire.nbytes(packet)) == pytest.approx(formula, rel=0.01)


@BOTH
@pytest.mark.parametrize("touched", [0, 5])
def test_what_arrives_decodes_to_the_same(make, touched):
    rng = np.random.default_rng(9)
    ids, live = np.arange(3, 3 + touched), np.arange(20) % 4 == 3
    update = {
        "dense": jnp.float32(rng.normal(size=(9, 6))),
        "few": gathered(rng.normal(size=(touched, 6)), ids, 20, 8),
        "whole": RowsUpdate(
            jnp.float32(rng.normal(size=(20, 6)) * live[:, None]), None, jnp.asarray(live), None, 20
        ),
    }
    compressor = make(2)
    packet, back = sent(compressor, update)[1:]
    data = wire.to_bytes(packet)
    assert len(data) == int(wire.nbytes(packet))
    arrived = jax.tree.map(jnp.asarray, wire.from_bytes(data, packet))
    received = jax.jit(compressor.decode, compiler_options=FAST)(arrived, blank(update), FIRST)
    np.testing.assert_allclose(received["dense"], back["dense"], atol=1e-6)
    for name in ("few", "whole"):
        np.testing.assert_allclose(to_dense(received[name]), to_dense(back[name]), atol=1e-6)


def test_factors_can_be_compressed_further_and_error_feedback_loses_nothing():
    """bfloat16 factors in a chain; what was sent and what is owed make up the sum of updates."""
    compressor = compress.error_feedback(
        compress.chain(power_sgd_one_shot(2), compress.cast("bfloat16"))
    )
    rng = np.random.default_rng(10)
    base = harmonic(11, 40, 16)
    memory, total, arrived, errors = compressor.init(jnp.zeros((40, 16))), 0.0, 0.0, []
    encode, decode = jax.jit(compressor.encode), jax.jit(compressor.decode)
    for _ in range(30):
        x = jnp.float32(base + 0.1 * rng.normal(size=base.shape))
        memory, packet = encode(KEY, memory, x, FIRST)
        total, arrived = total + x, arrived + decode(packet, x, FIRST)
        errors.append(np.abs(total - arrived).max())
        np.testing.assert_allclose(arrived + memory["error"][0], total, atol=1e-3)
    assert max(errors[15:]) < 3 * max(errors[:15])  # the error does not grow with the rounds
    assert int(wire.nbytes(packet)) == pytest.approx(2 * 2 * (40 + 16), abs=12)


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"truncated_svd\(rank=0\).*use rank >= 1"):
        truncated_svd(0)
    with pytest.raises(ValueError, match=r"power_sgd_one_shot\(rank=0\)"):
        power_sgd_one_shot(0)
    with pytest.raises(ValueError, match=r"power_sgd_one_shot\(iterations=0\)"):
        power_sgd_one_shot(2, 0)
