"""Key streams: by name, by client id and never by slot; counters that permute and draw."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import keys

KEY = jax.random.key(5)


@jax.jit
def permuted(index, n, seed):
    """permute, with what is not below n sent to -1."""
    out = keys.permute(jnp.where(index < n, index, 0), n, seed)
    return jnp.where(index < n, out.astype(jnp.int32), -1)


def seeds(count, key=KEY):
    return jax.random.bits(key, (count, 2), jnp.uint32)


def permutations(n: int, count: int) -> np.ndarray:
    """int[count, n]: where 0..n-1 go under `count` seeds."""
    index = jnp.arange(n, dtype=jnp.uint32)
    return np.asarray(
        jax.jit(jax.vmap(lambda s: keys.permute(index, jnp.uint32(n), s)))(seeds(count))
    )


def chi_square(counts: np.ndarray) -> float:
    """Standard deviations by which Pearson's statistic exceeds its mean, one bin short."""
    expected = counts.sum() / counts.size
    freedom = counts.size - 1
    return (((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom)


def test_permute_is_a_bijection_for_every_small_n():
    index = jnp.arange(300, dtype=jnp.uint32)
    every = jax.jit(jax.vmap(jax.vmap(permuted, (None, None, 0)), (None, 0, None)))
    out = np.asarray(every(index, jnp.arange(1, 301, dtype=jnp.uint32), seeds(3)))
    for n in range(1, 301):
        for row in out[n - 1]:
            np.testing.assert_array_equal(np.sort(row[:n]), np.arange(n))


@pytest.mark.parametrize("n", [2**16 - 1, 2**16, 2**16 + 1, 1_000_003])
def test_permute_is_a_bijection_for_large_n(n):
    index = jnp.arange(n, dtype=jnp.uint32)
    out = np.asarray(permuted(index, jnp.uint32(n), seeds(1)[0]))
    assert np.bincount(out, minlength=n).tolist() == [1] * n


@pytest.mark.parametrize("n", [2**31 - 1, 2**30, 2**31 - 2**20])
def test_permute_stays_below_the_largest_n(n):
    index = jnp.uint32(n) - 1 - jnp.arange(5000, dtype=jnp.uint32)
    out = np.asarray(keys.permute(index, jnp.uint32(n), seeds(1)[0]))
    assert out.max() < n and len(np.unique(out)) == 5000


@pytest.mark.parametrize("n", [2, 3, 5, 6, 7, 8, 20, 33, 100])
def test_each_index_goes_everywhere_equally_often(n):
    out = permutations(n, 6000)
    worst = max(chi_square(np.bincount(out[:, i], minlength=n)) for i in range(n))
    # The largest of n statistics; a biased position is tens of deviations off.
    assert worst < 6.5


@pytest.mark.parametrize("n", [16, 33, 100])
def test_neighbours_do_not_stay_neighbours(n):
    out = permutations(n, 6000)
    gap = (out[:, 1:] - out[:, :-1]) % n
    share = np.bincount(gap.reshape(-1), minlength=n)[1:] / gap.size
    # Multiplication leaves some structure: the commonest gap is at most twice too common.
    assert share.max() < 2.5 / (n - 1)


def test_small_permutations_are_all_reached():
    out = permutations(4, 6000)
    codes = (out * 4 ** np.arange(4)).sum(1)
    assert len(np.unique(codes)) == 24


def test_seeds_and_epochs_give_other_orders():
    out = permutations(100, 50)
    assert len({tuple(row) for row in out}) == 50
    assert (out == np.arange(100)).mean() < 0.03
    seed = seeds(1)[0]
    first, second = (
        permuted(jnp.arange(100, dtype=jnp.uint32), jnp.uint32(100), keys.mix(seed + e))
        for e in (jnp.uint32(0), jnp.uint32(1))
    )
    assert (np.asarray(first) == np.asarray(second)).mean() < 0.1


@pytest.mark.parametrize("n", [1, 2, 7, 40, 3416])
def test_below_is_uniform_and_in_range(n):
    bits = jax.random.bits(KEY, (60_000,), jnp.uint32)
    out = np.asarray(keys.below(bits, n))
    assert out.dtype == np.int32 and out.min() >= 0 and out.max() < n
    if n > 1:
        assert chi_square(np.bincount(out, minlength=n)) < 5
    ends = keys.below(jnp.uint32([0, 2**32 - 1]), n)
    assert ends.tolist() == [0, n - 1]


def test_the_upper_half_of_a_product_is_that_of_64_bits():
    rng = np.random.default_rng(0)
    ends = np.uint32([0, 1, 2, 0xFFFF, 0x10000, 0x10001, 2**31 - 1, 2**31, 2**32 - 1])
    drawn = rng.integers(0, 2**32, (2, 20_000), dtype=np.uint32)
    a, b = (
        np.concatenate([x, y.ravel()]) for x, y in zip(drawn, np.meshgrid(ends, ends), strict=True)
    )
    want = (a.astype(np.uint64) * b.astype(np.uint64) >> np.uint64(32)).astype(np.uint32)
    np.testing.assert_array_equal(keys.upper_half(jnp.asarray(a), jnp.asarray(b)), want)


TWO_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from fedjax_rec import keys
from fedjax_rec.wire import indices

def drawn(index, seed):
    number = keys.permute(index, jnp.uint32(90), seed)
    ids = jnp.sort(number.astype(jnp.int32))
    return keys.below(keys.mix(number), 7), indices.nbytes_of_list(ids, ids < 60, 90)

index, seed = jnp.arange(90, dtype=jnp.uint32), jnp.uint32([5, 6])
alone = jax.jit(drawn)(index, seed)
mesh = Mesh(np.array(jax.devices()), "c")
assert mesh.size == 2
parted = jax.device_put(index, NamedSharding(mesh, PartitionSpec("c")))
whole = jax.device_put(seed, NamedSharding(mesh, PartitionSpec()))
both = jax.jit(drawn)(parted, whole)
assert all(np.array_equal(x, y) for x, y in zip(alone, both))
"""


def test_a_program_over_two_devices_draws_the_same_bits():
    there = {
        **os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "0",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES], env=there, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_below_takes_a_bound_for_each_number():
    bits = jnp.full(3, 2**31, jnp.uint32)
    assert keys.below(bits, jnp.int32([2, 10, 1_000_000])).tolist() == [1, 5, 500_000]


def test_mix_is_a_bijection_that_scatters_bits():
    x = np.arange(1 << 16, dtype=np.uint32)
    out = np.asarray(keys.mix(jnp.asarray(x)))
    assert len(np.unique(out)) == len(x)
    flipped = np.asarray(keys.mix(jnp.asarray(x ^ 1))) ^ out
    changed = np.unpackbits(flipped.view(np.uint8)).mean()
    assert abs(changed - 0.5) < 0.02
    assert chi_square(np.bincount(out >> 22, minlength=1024)) < 5


def test_counters_are_uniform_under_mix():
    """As `data.batches` draws: number q of a seed."""
    for seed in np.asarray(seeds(3)):
        q = jnp.arange(50_000, dtype=jnp.uint32)
        bits = keys.mix(keys.mix(q + seed[0]) ^ seed[1])
        assert chi_square(np.bincount(np.asarray(keys.below(bits, 97)), minlength=97)) < 5


def bits_of(key):
    return np.asarray(jax.random.key_data(key))


def test_client_keys_do_not_depend_on_the_slot():
    ids = jnp.int32([7, 0, 3, 1000])
    several = keys.for_client(KEY, ids)
    turned = keys.for_client(KEY, ids[::-1])
    np.testing.assert_array_equal(bits_of(several), bits_of(turned)[::-1])
    for id, key in zip(ids, several, strict=True):
        np.testing.assert_array_equal(bits_of(key), bits_of(keys.for_client(KEY, id)))
    many = bits_of(keys.for_client(KEY, jnp.arange(2000)))
    assert len(np.unique(many, axis=0)) == 2000


def test_streams_differ_by_name_and_are_stable():
    a, b = keys.stream(KEY, "clients"), keys.stream(KEY, "aggregate")
    assert (bits_of(a) != bits_of(b)).any()
    np.testing.assert_array_equal(bits_of(a), bits_of(keys.stream(KEY, "clients")))
    assert keys.words(a, 4).shape == (4,) and keys.words(a, 4).dtype == jnp.uint32
