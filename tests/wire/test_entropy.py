"""Range coding: close to the entropy, never much above a fixed width, and hostile bytes."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.wire import bits, entropy

pytest.importorskip("constriction")


def bell(levels: int, count: int, width: float) -> np.ndarray:
    normal = np.random.default_rng(count).standard_normal(count)
    return np.clip(np.rint(levels / 2 + width * levels * normal), 0, levels - 1).astype(np.int64)


def empirical_entropy(symbols: np.ndarray) -> float:
    """Bytes: the entropy of the symbols' own frequencies."""
    shares = np.unique_counts(symbols).counts / symbols.size
    return -symbols.size * float(shares @ np.log2(shares)) / 8


@pytest.mark.parametrize(
    ("levels", "width", "count"),
    [
        (2, 0.2, 500),
        (3, 0.1, 500),
        (16, 0.1, 500),
        (513, 0.005, 500),
        (3, 0.1, 20_000),
        (16, 0.01, 20_000),
        (256, 0.1, 20_000),
        (513, 0.005, 20_000),
    ],
)
def test_symbols_take_one_percent_more_than_their_entropy(levels, width, count):
    symbols = bell(levels, count, width)
    data = entropy.pack(symbols, levels)
    assert len(data) <= 1.01 * empirical_entropy(symbols) + 64
    back = entropy.unpack(data, count, levels)
    assert back.dtype == np.min_scalar_type(levels - 1) and back.tolist() == symbols.tolist()


@pytest.mark.parametrize("skew", [0.5, 0.1, 0.01, 0.001])
def test_rare_symbols_take_little(skew):
    symbols = (np.random.default_rng(0).random(100_000) < skew).astype(np.uint8)
    data = entropy.pack(symbols, 2)
    assert len(data) <= 1.01 * empirical_entropy(symbols) + 20


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([1, 2, 3, 5, 16, 300, 2**16, 2**16 + 1, 2**32]).flatmap(
        lambda levels: st.tuples(
            st.just(levels),
            st.lists(st.integers(0, levels - 1) | st.integers(0, min(3, levels) - 1), max_size=80),
            st.integers(1, 40),
        )
    )
)
def test_symbols_are_restored_in_at_most_a_byte_more_than_at_fixed_width(drawn):
    levels, symbols, times = drawn
    symbols = np.array(symbols * times, np.uint32)
    data = entropy.pack(symbols, levels)
    assert len(data) <= 1 + bits.nbytes(symbols.size, levels)
    assert entropy.unpack(data, symbols.size, levels).tolist() == symbols.tolist()


def test_one_symbol_over_and_over_takes_next_to_nothing():
    symbols = np.full(10_000, 7)
    data = entropy.pack(symbols, 256)
    assert len(data) < 64
    assert entropy.unpack(data, 10_000, 256).tolist() == symbols.tolist()


def test_the_histogram_has_room_for_every_count():
    assert len(entropy.WEIGHTS) == entropy.STEPS > 1 + round(4 * np.log2(2**31 - 1))
    exact = 2 ** (10 + np.arange(entropy.STEPS - 1) / 4)
    np.testing.assert_allclose(entropy.WEIGHTS[1:], exact, rtol=1e-3)
    assert int(entropy.WEIGHTS[-1]) * entropy.LEVELS < 2**63


@pytest.mark.parametrize(("symbols", "levels"), [([0, 2], 2), ([-1], 16), ([300], 256)])
def test_a_symbol_out_of_range_is_not_sent(symbols, levels):
    with pytest.raises(ValueError, match=f"levels={levels}"):
        entropy.pack(np.array(symbols), levels)


def test_without_the_coder_the_remedy_is_named(monkeypatch):
    ranged = entropy.pack(np.zeros(100, int), 16)
    assert ranged[0] == entropy.RANGE
    monkeypatch.setitem(sys.modules, "constriction", None)
    for call in (
        lambda: entropy.pack(np.zeros(9, int), 2),
        lambda: entropy.unpack(ranged, 100, 16),
    ):
        with pytest.raises(ValueError, match="use pip install constriction"):
            call()


def refused_or_in_range(data: bytes, count: int, levels: int) -> None:
    try:
        symbols = entropy.unpack(data, count, levels)
    except ValueError as error:
        assert str(error).startswith("from_bytes(data) ") and "\n" not in str(error)
    else:
        assert len(symbols) == count and (count == 0 or symbols.max() < levels)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(
        [b"", b"\0", b"\1", *(entropy.HEAD.pack(1, 0, n, b) for n in (0, 1, 9) for b in (1, 2, 3))]
    ),
    st.binary(max_size=24),
    st.integers(0, 100),
    st.sampled_from([1, 2, 3, 16, 2**16, 2**20]),
)
def test_any_bytes_give_symbols_in_range_or_one_clear_error(head, body, count, levels):
    refused_or_in_range(head + body, count, levels)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([3, 16, 64]), st.data())
def test_damaged_bytes_give_symbols_in_range_or_one_clear_error(levels, draw):
    data = bytearray(entropy.pack(bell(levels, 600, 0.05), levels))
    assert data[0] == entropy.RANGE
    at = draw.draw(st.integers(0, len(data) - 1))
    for wrong in (data[:at], data + b"\0", data + b"\0\0\0\0"):
        with pytest.raises(ValueError, match=r"^from_bytes\(data\) "):
            entropy.unpack(bytes(wrong), 600, levels)
    data[at] ^= draw.draw(st.integers(1, 255))
    refused_or_in_range(bytes(data), 600, levels)


def test_a_count_beyond_what_the_words_hold_is_refused_before_decoding():
    data = entropy.pack(bell(16, 600, 0.1), 16)
    with pytest.raises(ValueError, match="not 1000000000000 symbols"):
        entropy.unpack(data, 10**12, 16)
