"""Sets of row ids: exact lengths inside jit, close to the entropy, and hostile bytes."""

import tracemalloc
from math import ceil, floor, lgamma, log, log2

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec import rows
from fedjax_rec.wire import indices

SIZES = [0, 1, 7, 300, 1000, 2**17, 2**31 - 1]
LENGTH = 64
nbytes_of_list = jax.jit(indices.nbytes_of_list, static_argnums=2)
nbytes_of_mask = jax.jit(indices.nbytes_of_mask, static_argnums=1)

sets = st.sampled_from(SIZES).flatmap(
    lambda size: st.tuples(
        st.just(size),
        st.sets(
            st.one_of(st.integers(0, size - 1), st.integers(0, min(size, 50) - 1))
            if size
            else st.nothing(),
            max_size=min(size, LENGTH),
        ).map(sorted),
    )
)


def random_set(size: int, count: int) -> np.ndarray:
    return np.sort(np.random.default_rng(count).choice(size, count, replace=False))


def entropy(size: int, count: int) -> float:
    """log2 C(size, count)."""
    nats = lgamma(size + 1) - lgamma(count + 1) - lgamma(size - count + 1)
    return nats / log(2)


def golomb_bits(ids, size: int) -> int:
    """Bits by the definition: unary quotients, remainders in truncated binary."""
    modulus = max(1, floor(log(2) * (size / len(ids) - 0.5) + 0.5))
    bits, before = 0, -1
    for i in ids:
        quotient, rest = divmod(int(i) - before - 1, modulus)
        full = ceil(log2(modulus))
        bits += quotient + 1 + (full - 1 if rest < 2**full - modulus else full)
        before = int(i)
    return bits


@settings(max_examples=200, deadline=None)
@given(sets, st.randoms(use_true_random=False))
def test_sets_are_restored_and_counted_inside_jit(sized, random):
    size, ids = sized
    # As `rows.localize` leaves them: repetitions, of which the first is live, then padding.
    entries = ids + [random.choice(ids) for _ in range((LENGTH - len(ids)) // 2) if ids]
    entries = np.array(sorted(entries) + [np.iinfo(np.int32).max] * (LENGTH - len(entries)), int)
    live = (np.diff(entries, prepend=-1) > 0) & (entries < size)
    assert entries[live].tolist() == ids
    for gaps in (True, False):
        data = indices.pack(np.array(ids, np.int64), size, gaps)
        back = indices.unpack(data, size)
        assert back.dtype == np.int32 and back.tolist() == ids
        if size < 2**17:
            assert len(data) <= 1 + -(-size // 8)
        if gaps:
            assert int(nbytes_of_list(np.int32(entries), live, size)) == len(data)
        else:
            assert int(nbytes_of_mask(np.uint32(len(ids)), size)) == len(data)


def test_localized_rows_are_counted_for_each_client():
    table = rows.Table(jnp.zeros((200, 1)))
    touched = np.random.default_rng(0).integers(0, 220, (3, 40)).clip(0, 200)

    @jax.jit
    @jax.vmap
    def nbytes(ids):
        local = rows.localize(table, ids)
        return indices.nbytes_of_list(local.ids, local.live, 200)

    counted = nbytes(touched)
    packed = [indices.pack(np.unique(t[t < 200]), 200, True) for t in touched]
    assert counted.tolist() == list(map(len, packed)) and counted.dtype == np.uint32


@settings(max_examples=40, deadline=None)
@given(sets.filter(lambda sized: sized[1]))
def test_golomb_codes_have_the_bits_of_their_definition(sized):
    size, ids = sized
    data = indices.pack(np.array(ids), size, True)
    if data[0] & 3 == indices.GOLOMB:  # tag, count, and less than two bytes of padding
        head = 3 if len(ids) > 255 else 2
        assert 0 <= 8 * (len(data) - head) - golomb_bits(ids, size) < 16


@pytest.mark.parametrize("share", [0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.24])
def test_random_sets_take_at_most_two_percent_more_than_their_entropy(share):
    size = 2**17
    ids = random_set(size, round(share * size))
    data = indices.pack(ids, size, gaps=True)
    assert data[0] & 3 == indices.GOLOMB
    assert indices.unpack(data, size).tolist() == ids.tolist()
    spare = 0 if len(ids) >= 200 else 8 * 4  # tag, count and padding weigh on small sets
    assert 1 <= 8 * len(data) / entropy(size, len(ids)) < 1.02 + spare / entropy(size, len(ids))


def test_the_anchor_of_one_percent():
    size = 2**20
    bits = np.mean([8 * len(indices.pack(random_set(size, 10486 + i), size, True)) for i in (0, 1)])
    assert bits / 10486 == pytest.approx(8.108, rel=0.002)
    assert entropy(size, 10486) / 10486 == pytest.approx(8.079, rel=0.001)


def test_dense_sets_are_bitmaps():
    ids = random_set(1000, 500)
    for gaps in (True, False):
        data = indices.pack(ids, 1000, gaps)
        assert data == b"\0" + np.packbits(np.isin(range(1000), ids), bitorder="little").tobytes()


@pytest.mark.parametrize("gaps", [True, False])
@pytest.mark.parametrize("absent", [0, 1, 30, 70])
def test_sets_of_nearly_all_say_what_is_absent(gaps, absent):
    ids = np.setdiff1d(np.arange(1000), random_set(1000, absent))
    data = indices.pack(ids, 1000, gaps)
    np.testing.assert_array_equal(indices.unpack(data, 1000), ids)
    live = np.arange(1000) < ids.size
    listed = np.where(live, np.resize(ids, 1000), 1000).astype(np.int32)
    assert int(nbytes_of_list(listed, live, 1000)) == len(data)
    assert int(nbytes_of_mask(np.uint32(ids.size), 1000)) == len(data)
    # The absent ids cost what they cost among few, and not a bit an id.
    few = len(indices.pack(random_set(1000, absent), 1000, gaps=False))
    assert len(data) == few < 1 + 125


@pytest.mark.parametrize("count", [0, 1, 255, 256, 2**16, 2**24, 2**28, 2**31 - 1])
def test_masks_of_any_size_are_counted_without_overflow(count):
    size, lower = 2**31 - 1, floor(log2((2**31 - 1) // max(1, count)))
    head = 2 + (count >= 2**8) + (count >= 2**16) + (count >= 2**24)
    upper = count + ((size - 1) >> lower)
    elias_fano = head + -(-count * lower // 8) + -(-upper // 8)
    assert int(nbytes_of_mask(np.uint32(count), size)) == min(elias_fano, 1 + 2**28)


def test_the_upper_bits_of_a_mask_end_with_its_last_id():
    # 9 of 1024: 6 lower bits each, and 9 + 1023 // 64 = 24 upper ones.
    assert len(indices.pack(random_set(1024, 9), 1024, gaps=False)) == 2 + 7 + 3


@pytest.mark.parametrize(
    "data",
    [
        b"\2\1\x3f\2",  # Elias-Fano: 1 * 64 + 63
        b"\1\1\x3f\5",  # Golomb with m = 69: 1 * 69 + 68
    ],
)
def test_an_id_beyond_the_size_is_refused(data):
    with pytest.raises(ValueError, match="not below 100"):
        indices.unpack(data, 100)


@pytest.mark.parametrize("ids", [[1, 1], [3, 2], [-1, 2], [4, 10]])
def test_what_is_no_set_is_not_sent(ids):
    with pytest.raises(ValueError, match="size=10"):
        indices.pack(np.array(ids), 10, True)


def refused_or_a_set(data: bytes, size: int) -> None:
    try:
        ids = indices.unpack(data, size)
    except ValueError as error:
        assert str(error).startswith("from_bytes(data) ") and "\n" not in str(error)
    else:
        assert (np.diff(ids, prepend=-1) > 0).all() and (ids < size).all()


@settings(max_examples=300, deadline=None)
@given(
    st.tuples(st.integers(0, 3).map(lambda tag: bytes([tag])), st.binary(max_size=12)).map(b"".join)
    | st.binary(max_size=12),
    st.sampled_from(SIZES),
)
def test_any_bytes_give_a_set_or_one_clear_error(data, size):
    refused_or_a_set(data, size)


@settings(max_examples=200, deadline=None)
@given(sets, st.booleans(), st.data())
def test_damaged_bytes_give_a_set_or_one_clear_error(sized, gaps, draw):
    size, ids = sized
    data = bytearray(indices.pack(np.array(ids, np.int64), size, gaps))
    at = draw.draw(st.integers(0, len(data) - 1))
    for wrong in (data[:at], data + b"\0"):
        with pytest.raises(ValueError, match=r"^from_bytes\(data\) "):
            indices.unpack(bytes(wrong), size)
    data[at] ^= draw.draw(st.integers(1, 255))
    refused_or_a_set(bytes(data), size)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",  # a bitmap without its bits
        b"\3\1\1",  # all but one of too many
        b"\x0d\xff\xff\xff\x7f",  # 2^31 - 1 ids in no bytes
        b"\x0e\xff\xff\xff\x7f" + b"\xff" * 100,
        b"\x11\1\0\0\0\0" + b"\xff" * 100,  # a count of five bytes
        b"\1\1" + b"\0" * 99,  # an id without an end
    ],
)
def test_hostile_counts_take_no_memory(data):
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"^from_bytes\(data\) "):
        indices.unpack(data, 2**31 - 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
