"""Casts: against NumPy's own types, at the ends of their ranges, scaled, and without bias."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rounds import FIRST

from fedjax_rec import wire
from fedjax_rec.compress.cast import DTYPES, cast, scaled_cast, stochastic_cast
from fedjax_rec.rows import RowsUpdate

KEY = jax.random.key(7)
EVERY = pytest.mark.parametrize("dtype", DTYPES)
# Half a unit in the last place, relative.
HALF_UNIT = dict(zip(DTYPES, (2.0**-8, 2.0**-11, 2.0**-4, 2.0**-3), strict=True))
rng = np.random.default_rng(2)
WIDE = (rng.normal(size=20000) * 10.0 ** rng.uniform(-9, 9, 20000)).astype(np.float32)
NORMAL = rng.normal(size=20000).astype(np.float32)


def packet_of(compressor, x, key=KEY):
    return compressor.encode(key, compressor.init(x), x, FIRST)[1]


def back(compressor, x, key=KEY):
    x = jnp.asarray(x, jnp.float32)
    return np.asarray(compressor.decode(packet_of(compressor, x, key), x, FIRST))


@EVERY
def test_nearest_and_saturated(dtype):
    """As NumPy rounds; ties and the largest included; never an infinity."""
    most = float(jnp.finfo(dtype).max)
    grid = np.float32([0, 1, 1 + 2 * HALF_UNIT[dtype], 1 + 4 * HALF_UNIT[dtype], most, -most])
    ties = np.float32([1 + HALF_UNIT[dtype], 1 + 3 * HALF_UNIT[dtype], -1 - HALF_UNIT[dtype]])
    x = np.concatenate([WIDE, grid, ties])
    want = np.clip(x, -most, most).astype(jnp.dtype(dtype)).astype(np.float32)
    np.testing.assert_array_equal(back(cast(dtype), x), want)
    large = np.float32([3.4028e38, -3.4028e38, np.inf, -np.inf, min(1.04 * most, 3.4028e38)])
    np.testing.assert_array_equal(back(cast(dtype), large), np.sign(large) * np.float32(most))
    assert np.isnan(back(cast(dtype), np.float32([np.nan]))).all()


@EVERY
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_scaled_casts_do_not_depend_on_the_scale(dtype, scale):
    """The relative error everywhere but near zero, and a contraction."""
    x = np.float32(NORMAL * scale)
    y = back(scaled_cast(dtype), x)
    error, size = np.abs(np.float64(y) - x), np.abs(np.float64(x))
    slack = size.max() * (2.2e-6 if dtype == "float8_e4m3fn" else 1.4e-10)
    assert (error <= size * HALF_UNIT[dtype] * 1.001 + slack).all()
    largest = size.argmax()
    assert y[largest] == pytest.approx(x[largest], rel=2e-3 if dtype == "bfloat16" else 3e-7)
    bound = HALF_UNIT[dtype] ** 2 + 5e-12 * x.size * (dtype == "float8_e4m3fn")
    assert (error**2).sum() <= bound * (size**2).sum() * 1.001


@EVERY
@pytest.mark.parametrize("make", [cast, scaled_cast])
def test_extremes_stay_finite(make, dtype):
    for x in (np.zeros(9), np.full(9, 1e-40), np.float32(5.0), np.eye(5) * -3e38):
        y = back(make(dtype), x)
        assert np.isfinite(y).all() and y.shape == np.shape(x)
        assert (np.abs(np.float64(y) - x) <= np.abs(x).max()).all()


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "bfloat16"])
@pytest.mark.parametrize("make", [cast, scaled_cast])
def test_rows_and_sizes(make, dtype):
    """Scales are of live rows; sizes are exact; what arrives decodes to the same."""
    width = 1 if dtype == "float8_e4m3fn" else 2
    live = jnp.asarray([True, False, True, True])
    values = jnp.asarray(NORMAL[:2000].reshape(4, 500)).at[1].set(1e6)
    x = {"rows": RowsUpdate(values, None, live, None, 4), "bias": jnp.float32(0.3)}
    packet = packet_of(make(dtype), x)
    sent = wire.to_bytes(packet)
    assert int(wire.nbytes(packet)) == len(sent)
    assert len(sent) == pytest.approx(width * 1500, abs=40)
    arrived = jax.tree.map(jnp.asarray, wire.from_bytes(sent, packet))
    there = make(dtype).decode(arrived, jax.tree.map(jnp.zeros_like, x), FIRST)
    here = make(dtype).decode(packet, jax.tree.map(jnp.zeros_like, x), FIRST)
    np.testing.assert_array_equal(there["rows"].values, here["rows"].values[live])
    np.testing.assert_array_equal(there["bias"], here["bias"])
    alone = back(make(dtype), values[live])
    np.testing.assert_allclose(there["rows"].values, alone, rtol=1e-6)
    assert not here["rows"].values[1].any()


def test_stochastic_cast_has_the_right_mean_and_variance():
    """Over 4000 keys, of numbers that lie 5/16 of the way between neighbours; omega <= 2^-16."""
    x = np.float32((1 + (5 / 16 + np.arange(100)) * 2.0**-7) * np.float32(-1.5) ** np.arange(100))
    compressor = stochastic_cast()

    def one(key):
        return compressor.decode(packet_of(compressor, jnp.asarray(x), key), jnp.asarray(x), FIRST)

    sent = np.float64(jax.jit(jax.vmap(one))(jax.random.split(KEY, 4000)))
    assert (np.float64(sent) == np.float64(jnp.bfloat16(sent))).all()
    low = np.ldexp(np.floor(np.ldexp(np.abs(np.float64(x)), _shift(x))), -_shift(x))
    high = low + np.ldexp(1.0, -_shift(x))
    variance = (high - np.abs(x)) * (np.abs(x) - low)
    assert (np.abs(sent.mean(0) - x) <= 5.5 * np.sqrt(variance / 4000) + 1e-7 * np.abs(x)).all()
    ratio = sent.var(0) / np.where(variance > 0, variance, 1)
    assert ratio[variance > 0].mean() == pytest.approx(1, abs=0.02)
    assert (variance <= 2.0**-16 * np.float64(x) ** 2).all()
    nearest = np.abs(back(cast(), x) - x)  # which is biased on the same numbers
    assert (nearest > 6 * np.sqrt(variance / 4000))[variance > 0].mean() > 0.9


def _shift(x):
    """Powers of two that take the last of the 8 bits of a bfloat16 to 1."""
    return 8 - np.frexp(np.abs(np.float64(x)))[1]


def test_stochastic_cast_at_the_ends():
    exact = np.float32([0, 1, -2, 0.5, 2.0**-126, 3.0])
    np.testing.assert_array_equal(back(stochastic_cast(), exact), exact)
    largest = float(jnp.finfo(jnp.bfloat16).max)
    top = np.float32([3.4028e38, -3.4028e38] * 50)
    np.testing.assert_array_equal(back(stochastic_cast(), top), np.sign(top) * np.float32(largest))
    assert not np.isfinite(back(stochastic_cast(), np.float32([np.inf, -np.inf, np.nan]))).any()
    packet = packet_of(stochastic_cast(), jnp.asarray(NORMAL))
    assert packet.body.dtype == jnp.bfloat16
    assert len(wire.to_bytes(packet)) == pytest.approx(2 * NORMAL.size, abs=16)


@pytest.mark.parametrize("make", [cast, scaled_cast])
def test_wrong_arguments(make):
    with pytest.raises(ValueError, match=r"dtype='int8'\) is unknown.*'bfloat16'"):
        make("int8")
    with pytest.raises(ValueError, match="did you mean 'float8_e5m2'"):
        make("float8_e5m3")
