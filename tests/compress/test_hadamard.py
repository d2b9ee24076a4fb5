"""The fast transform against the matrix of its definition, however the work is cut up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.compress import hadamard as module
from fedjax_rec.compress.hadamard import hadamard

SIZES = [1, 2, 8, 32, 64, 256, 2048]


def matrix(size):
    """H[i, j] = (-1)^popcount(i & j) / sqrt(size)."""
    i = np.arange(size)
    return (-1.0) ** np.bitwise_count(i[:, None] & i) / np.sqrt(size)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("size", SIZES)
def test_is_the_matrix_of_the_definition(size):
    x = normal(3, size)
    y = hadamard(jnp.asarray(x))
    np.testing.assert_allclose(y, x @ matrix(size), atol=3e-6)
    np.testing.assert_allclose(hadamard(y), x, atol=3e-6)


@pytest.mark.parametrize("shape", [(64,), (1, 64), (0, 64), (2, 3, 5, 64)])
def test_leading_axes_are_kept(shape):
    x = normal(*shape)
    np.testing.assert_allclose(hadamard(jnp.asarray(x)), x @ matrix(64), atol=3e-6)


@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize("count", [4, 7, 8, 9, 16])
def test_tiles_and_what_is_left_of_them(monkeypatch, count, size):
    monkeypatch.setattr(module, "TILE", 4 * 64)
    x = normal(count, size)
    y = jax.jit(lambda x: hadamard(x))(x)
    np.testing.assert_allclose(y, x @ matrix(size), atol=3e-6)


def test_vmap_along_any_axis_and_within_itself():
    x = normal(4, 3, 5, 64)
    want = x @ matrix(64)
    np.testing.assert_allclose(jax.vmap(jax.vmap(hadamard))(x), want, atol=3e-6)
    inner = jax.vmap(hadamard, in_axes=1, out_axes=1)
    np.testing.assert_allclose(jax.jit(jax.vmap(inner))(x), want, atol=3e-6)
    np.testing.assert_allclose(jax.lax.map(hadamard, x, batch_size=3), want, atol=3e-6)


def test_large_and_low_precision_numbers():
    x = normal(2, 1024) * np.float32(1e20)
    np.testing.assert_allclose(hadamard(jnp.asarray(x)), x @ matrix(1024), atol=3e14)
    y = hadamard(jnp.ones((1, 64), jnp.bfloat16))
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, 8.0 * np.eye(1, 64), atol=1e-6)


@pytest.mark.parametrize("size", [0, 3, 96])
def test_other_sizes_are_refused(size):
    with pytest.raises(ValueError, match=f"of {size} coordinates; pad them to a power of two"):
        hadamard(jnp.zeros((2, size)))
