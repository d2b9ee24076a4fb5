"""Symbols at a fixed width, against Python's own long integers."""

import tracemalloc

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.wire import bits

LEVELS = [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33, 100, 128, 200, 256, 257, 1000, 2**12, 2**13 + 1]
LEVELS += [2**16, 2**16 + 1, 2**20, 2**23, 2**24, 2**24 + 1, 2**27, 2**31, 2**32 - 1, 2**32]

nbytes = jax.jit(bits.nbytes, static_argnums=1)


def as_one_integer(symbols, bits_each: int) -> int:
    return sum(int(s) << i * bits_each for i, s in enumerate(symbols))


def drawn(levels: int, count: int) -> np.ndarray:
    dtype = np.min_scalar_type(max(1, levels - 1))
    return np.random.default_rng(count).integers(0, levels, count, dtype=dtype)


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("count", [0, 1, 4, 5, 7, 8, 9, 64, 101])
def test_symbols_are_restored_from_exactly_their_bits(levels, count):
    symbols = drawn(levels, count)
    data = bits.pack(symbols, levels)
    assert len(data) == bits.nbytes(count, levels) == nbytes(np.uint32(count), levels)
    if levels == 3:
        places = [data[i // 5] // 3 ** (i % 5) % 3 for i in range(count)]
        assert places == symbols.tolist() and len(data) == -(-count // 5)
    else:
        each = bits.width(levels)
        assert each == max(1, int(np.ceil(np.log2(levels))))
        assert data == as_one_integer(symbols, each).to_bytes(-(-count * each // 8), "little")
    back = bits.unpack(data, count, levels)
    assert back.dtype == symbols.dtype and back.tolist() == symbols.tolist()


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 3, 16, 17, 255, 2**12, 2**32]))
def test_bytes_are_counted_inside_jit_beyond_32_bits_of_bits(count, levels):
    exact = -(-count // 5) if levels == 3 else -(-count * bits.width(levels) // 8)
    assert bits.nbytes(count, levels) == exact
    assert int(nbytes(np.uint32(count), levels)) == exact % 2**32


def test_a_traced_width_counts_alike():
    counted = jax.jit(jax.vmap(bits.nbytes_at))
    counts, widths = np.uint32([0, 1, 9, 2**28 + 3]), np.uint32([7, 0, 31, 31])
    exact = [-(-int(c) * int(w) // 8) for c, w in zip(counts, widths, strict=True)]
    assert counted(counts, widths).tolist() == exact


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int32, np.uint64])
def test_any_integer_dtype_and_shape_is_packed(dtype):
    symbols = np.array([[1, 0, 1], [0, 0, 1]]).astype(dtype)
    assert bits.pack(symbols, 2) == bytes([0b100101])
    assert bits.pack(symbols, 5) == bits.pack(symbols.reshape(-1).astype(np.uint8), 5)


@pytest.mark.parametrize(("symbols", "levels"), [([0, 2], 2), ([-1], 16), ([3], 3), ([256], 256)])
def test_a_symbol_out_of_range_is_not_sent(symbols, levels):
    with pytest.raises(ValueError, match=f"levels={levels}"):
        bits.pack(np.array(symbols), levels)


@settings(deadline=None)
@given(st.binary(max_size=20), st.integers(0, 60), st.sampled_from(LEVELS))
def test_any_bytes_give_symbols_in_range_or_one_clear_error(data, count, levels):
    try:
        symbols = bits.unpack(data, count, levels)
    except ValueError as error:
        assert str(error).startswith("from_bytes(data) ") and "\n" not in str(error)
    else:
        assert len(symbols) == count and (count == 0 or symbols.max() < levels)
        assert len(data) == bits.nbytes(count, levels)


@pytest.mark.parametrize(
    ("data", "count", "levels"),
    [
        (b"\0", 9, 2),  # truncated
        (b"\0\0", 8, 2),  # overlong
        (b"\xf3", 5, 3),  # 243 is no five trits
        (b"\x05", 1, 5),  # the sixth of five levels
        (b"", 2**60, 2),  # beyond any memory
        (b"\0" * 9, 2**60, 2**20),
    ],
)
def test_bytes_that_hold_no_such_symbols_are_refused(data, count, levels):
    with pytest.raises(ValueError, match=r"^from_bytes\(data\) "):
        bits.unpack(data, count, levels)


@pytest.mark.parametrize("levels", [2, 3, 32, 2**20])
def test_unpacking_takes_memory_in_proportion_to_the_symbols(levels):
    symbols = drawn(levels, 40_000)
    data = bits.pack(symbols, levels)
    tracemalloc.start()
    bits.unpack(data, symbols.size, levels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < max(8, bits.width(levels)) * symbols.size
