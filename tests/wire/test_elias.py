"""Elias gamma code of signed integers, against the code written out digit by digit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.wire import elias

int32 = st.one_of(
    st.integers(-3, 3),
    st.integers(-(2**31), 2**31 - 1),
    st.sampled_from([2**k + d for k in range(31) for d in (-2, -1, 0)]),
)
nbytes = jax.jit(elias.nbytes)
nbytes_each = jax.jit(jax.vmap(elias.nbytes))


def gamma(value: int) -> tuple[str, str, str]:
    """Zeros and a one; the lower bits, lowest first; the sign."""
    digits = bin(abs(value) + 1)[2:]
    sign = "" if value == 0 else str(int(value < 0))
    return "0" * (len(digits) - 1) + "1", digits[:0:-1], sign


def written_out(values) -> bytes:
    stream = "".join(map("".join, zip(*map(gamma, values), strict=True)))
    return bytes(int(stream[i : i + 8][::-1], 2) for i in range(0, len(stream), 8))


@settings(max_examples=150, deadline=None)
@given(st.lists(int32, max_size=64), st.randoms(use_true_random=False))
def test_values_are_restored_and_counted_inside_jit(values, random):
    data = elias.pack(np.array(values, np.int64))
    assert data == (written_out(values) if values else b"")
    back = elias.unpack(data, len(values))
    assert back.dtype == np.int32 and back.tolist() == values
    padded, live = np.zeros(64, np.int32), np.zeros(64, bool)
    live[sorted(random.sample(range(64), len(values)))] = True
    padded[live], padded[~live] = values, 12345
    assert int(nbytes(padded, live)) == len(data)
    # Rows are live or not as a whole; clients are counted apart.
    rows = np.stack([padded.reshape(16, 4)] * 2)
    some = np.stack([live[:16], ~live[:16]])
    sizes = [len(elias.pack(r[s])) for r, s in zip(rows, some, strict=True)]
    assert nbytes_each(rows, some).tolist() == sizes


def test_the_count_does_not_overflow():
    # 2^26 values of 64 bits: 2^32 bits. XLA never has them in memory.
    many = jax.jit(lambda v: elias.nbytes(jnp.broadcast_to(v, (2**26 + 3,))))
    assert int(many(np.int32(-(2**31)))) == 2**29 + 24


def test_every_dtype_of_levels_is_counted_alike():
    values = np.array([-128, -1, 0, 1, 127])
    for dtype in (np.int8, np.int16, np.int32):
        assert int(elias.nbytes(values.astype(dtype))) == len(elias.pack(values))


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1])
def test_a_value_beyond_int32_is_not_sent(value):
    with pytest.raises(ValueError, match="int32"):
        elias.pack(np.array([0, value]))


def refused_or_canonical(data: bytes, count: int) -> None:
    try:
        values = elias.unpack(data, count)
    except ValueError as error:
        assert str(error).startswith("from_bytes(data) ") and "\n" not in str(error)
    else:
        again = elias.pack(values)
        assert len(again) == len(data) and again[:-1] == data[:-1]  # padding bits are ignored


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.integers(0, 400))
def test_any_bytes_give_their_values_or_one_clear_error(data, count):
    refused_or_canonical(data, count)


@settings(max_examples=200, deadline=None)
@given(st.lists(int32, min_size=1, max_size=40), st.data())
def test_damaged_bytes_give_their_values_or_one_clear_error(values, draw):
    data = bytearray(elias.pack(np.array(values, np.int64)))
    at = draw.draw(st.integers(0, len(data) - 1))
    for truncated in (data[:at], data + b"\0"):
        with pytest.raises(ValueError, match=r"^from_bytes\(data\) "):
            elias.unpack(bytes(truncated), len(values))
    data[at] ^= draw.draw(st.integers(1, 255))
    refused_or_canonical(bytes(data), len(values))


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"", 1),
        (b"\xff", 0),  # values where none belong
        (b"\xff", 9),
        (b"\xff" * 4, 2**60),  # beyond any memory
        (b"\0" * 4 + b"\1" + b"\0" * 4, 1),  # 32 zeros before the one
        (b"\0" * 8 + b"\1" + b"\0" * 8, 1),  # 64
        (b"\0\0\0\x80\xff\xff\xff\x7f", 1),  # |v| = 2^32 - 2
        (b"\0\0\0\x80\0\0\0\x80", 2),  # no second end
        (written_out([2**31]), 1),  # an int32 below zero only
    ],
)
def test_bytes_that_hold_no_such_values_are_refused(data, count):
    with pytest.raises(ValueError, match=r"^from_bytes\(data\) "):
        elias.unpack(data, count)
