"""Messages: exact sizes, the order of rows, and bytes that are no message."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec import rows, wire
from fedjax_rec.rows import RowsUpdate, Table
from fedjax_rec.types import Packet
from fedjax_rec.wire import Codes, Elias, Live

DTYPES = ["float32", "bfloat16", "float16", "int8", "uint8", "int32", "uint32", "bool"]


def table_update(size: int, touched, width=3, dtype="float32", whole=False) -> RowsUpdate:
    touched = np.asarray(touched, np.int64)
    if whole:
        live = np.isin(np.arange(size), touched)
        ids = None
    else:
        live = np.arange(len(touched) + 2) < len(touched)
        ids = jnp.int32(np.concatenate([touched, [np.iinfo(np.int32).max] * 2]))
    values = (np.arange(live.size * width).reshape(-1, width) % 100 + 1) * live[:, None]
    return RowsUpdate(jnp.asarray(values).astype(dtype), ids, jnp.asarray(live), None, size)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 300).flatmap(
        lambda size: st.tuples(st.just(size), st.sets(st.integers(0, size - 1)))
    ),
    st.sampled_from(["float32", "bfloat16", "int8"]),
    st.booleans(),
)
def test_rows_are_counted_and_restored(sized, dtype, whole):
    size, touched = sized
    touched = sorted(touched)
    packet = Packet(table_update(size, touched, dtype=dtype, whole=whole))
    sent = wire.to_bytes(packet)
    assert int(wire.nbytes(packet)) == len(sent)
    back = wire.from_bytes(sent, packet).body
    assert back.ids.tolist() == touched and back.live.all() and back.size == size
    live = np.asarray(packet.body.live)
    np.testing.assert_array_equal(back.values, np.asarray(packet.body.values)[live])
    assert back.values.dtype == packet.body.values.dtype


@pytest.mark.parametrize("dtype", DTYPES)
def test_dense_leaves_of_every_dtype_come_back(dtype):
    x = jnp.asarray(np.arange(12).reshape(3, 4)).astype(dtype)
    packet = Packet({"x": x, "empty": jnp.zeros((0, 3))}, {"scale": jnp.float32(2)})
    sent = wire.to_bytes(packet)
    assert int(wire.nbytes(packet)) == len(sent)
    back = wire.from_bytes(sent, packet)
    np.testing.assert_array_equal(back.body["x"], x)
    assert back.body["x"].dtype == x.dtype and float(back.side["scale"]) == 2


@pytest.mark.parametrize("length", [0, 1, 255, 256, 257, 65535, 65536, 70000])
def test_lengths_around_the_headers_of_msgpack(length):
    packet = Packet(jnp.zeros(length, jnp.uint8))
    assert int(wire.nbytes(packet)) == len(wire.to_bytes(packet))


@pytest.mark.parametrize("parts", [0, 1, 12, 13, 14, 15, 16, 40])
def test_many_parts(parts):
    packet = Packet([jnp.zeros(2)] * parts)
    sent = wire.to_bytes(packet)
    assert int(wire.nbytes(packet)) == len(sent) and len(msgpack.unpackb(sent)) == parts + 2


def test_an_update_with_origin_sends_the_change():
    table = Table(jnp.float32(np.random.default_rng(0).normal(size=(9, 2))))
    local = rows.mark(rows.whole(table), jnp.int32([4, 4, 7]), jnp.ones(3))
    update = rows.update_of(local, table)
    assert update.origin is not None
    moved = replace(update, values=update.values + update.live[:, None])
    back = wire.from_bytes(wire.to_bytes(moved), moved)
    assert back.ids.tolist() == [4, 7]
    np.testing.assert_allclose(back.values, 1, rtol=1e-6)


@pytest.mark.parametrize("whole", [True, False])
def test_a_scaled_update_arrives_scaled(whole):
    """`rows.scale` keeps its factor aside, which is not sent: the rows sent have to carry it."""
    update = rows.scale(table_update(20, [4, 7], whole=whole), 3.0)
    sent = wire.to_bytes(update)
    assert int(wire.nbytes(update)) == len(sent)
    back = wire.from_bytes(sent, update)
    np.testing.assert_allclose(rows.to_dense(back), rows.to_dense(update), rtol=1e-6)


def test_nbytes_runs_under_vmap():
    several = [table_update(40, t, whole=True) for t in ([], [3], [1, 5, 39])]
    together = jax.tree.map(lambda *x: jnp.stack(x), *several)
    assert jax.vmap(wire.nbytes)(together).tolist() == [len(wire.to_bytes(x)) for x in several]


CODES = jnp.uint8([3, 0, 6, 2, 5])
LIKE = Packet(
    {
        "bias": jnp.zeros(3),
        "codes": Codes(CODES, 7),
        "elias": Elias(jnp.int32([0, -3, 9])),
        "flags": jnp.array([True, False, True]),
        "item": table_update(20, [1, 2]),
        "some": Live(Codes(jnp.uint8([[1, 2], [0, 1], [2, 2]]), 3), jnp.array([True, False, True])),
    },
    known={"shift": jnp.ones(2)},
)
GOOD = wire.to_bytes(LIKE)
PARTS = msgpack.unpackb(GOOD)


def test_nodes_of_every_kind_come_back():
    assert int(wire.nbytes(LIKE)) == len(GOOD)
    back = wire.from_bytes(GOOD, LIKE)
    np.testing.assert_array_equal(back.body["codes"].symbols, CODES)
    np.testing.assert_array_equal(back.body["elias"].values, [0, -3, 9])
    np.testing.assert_array_equal(back.body["flags"], [True, False, True])
    assert back.body["flags"].dtype == bool and back.body["item"].ids.tolist() == [1, 2]
    np.testing.assert_array_equal(back.body["some"].values.symbols, [[1, 2], [2, 2]])
    assert back.body["some"].live.tolist() == [True, True]
    assert back.known is LIKE.known


def test_what_is_known_is_not_sent():
    assert len(wire.to_bytes(Packet(LIKE.body))) == len(GOOD)


def test_range_coding_is_read_by_the_same_function():
    if not wire.can_range_code():
        pytest.skip("constriction is not installed: pip install 'fedjax-rec[entropy]'")
    rare = Codes(jnp.uint8(np.random.default_rng(0).random(4000) < 0.02), 16)
    sent = wire.to_bytes(rare, entropy=True)
    assert len(sent) < 0.25 * len(wire.to_bytes(rare))
    np.testing.assert_array_equal(wire.from_bytes(sent, rare).symbols, rare.symbols)


def repacked(*parts):
    return msgpack.packb(list(parts), use_bin_type=True)


def changed(place: int, part):
    return repacked(*(part if i == place else p for i, p in enumerate(PARTS)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        GOOD[:-1],
        GOOD + b"\x00",
        b"\xc1" * 20,
        msgpack.packb({"a": 1}),
        msgpack.packb(["x"]),
        repacked(2),
        repacked(2, 0),
        changed(0, 1),
        changed(1, 2),
        changed(1, "x"),
        changed(1, True),
        repacked(*PARTS[:-1]),
        repacked(*PARTS, b""),
        *(changed(i, part[:-1]) for i, part in enumerate(PARTS) if isinstance(part, bytes)),
        *(changed(i, part + b"\0") for i, part in enumerate(PARTS) if isinstance(part, bytes)),
        *(changed(i, "text") for i in range(2, len(PARTS))),
        *(changed(i, 5) for i, part in enumerate(PARTS) if isinstance(part, bytes)),
        *(changed(i, None) for i in range(len(PARTS))),
        changed(3, b"\xff\xff"),  # symbol 7 of 7
        changed(8, 4),  # four entries of three
        changed(8, -1),
        changed(8, 2**40),
        changed(9, b"\xff"),  # 255 is no five trits
    ],
)
def test_bytes_that_are_no_message_are_refused(data):
    with pytest.raises(ValueError, match=r"^from_bytes\(data"):
        wire.from_bytes(data, LIKE)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_spoilt_message_is_refused_or_read(draw):
    """Flipped, cut and inserted bytes of a good message: one clear error, or a packet."""
    data = bytearray(GOOD)
    for _ in range(draw.draw(st.integers(1, 4))):
        place = draw.draw(st.integers(0, len(data) - 1))
        data[place] = draw.draw(st.integers(0, 255))
    cut = draw.draw(st.integers(0, len(data)))
    for spoilt in (bytes(data), bytes(data[:cut]), bytes(data) + bytes(data[cut:])):
        try:
            wire.from_bytes(spoilt, LIKE)
        except ValueError as error:
            assert str(error).startswith("from_bytes(data") and "\n" not in str(error)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_refused_or_read(data):
    try:
        wire.from_bytes(data, LIKE)
    except ValueError as error:
        assert str(error).startswith("from_bytes(data")


def test_there_is_one_message_of_a_packet():
    """Bytes that say the same in another way are refused: padding, long headers, other codings."""
    flags, like = np.array([True, False, True]), np.zeros(3, bool)
    data = wire.to_bytes(flags)
    np.testing.assert_array_equal(wire.from_bytes(data, like), flags)
    ids = RowsUpdate(np.zeros((2, 1), np.float32), np.int32([1, 5]), np.ones(2, bool), None, 200)
    parts = msgpack.unpackb(wire.to_bytes(ids))
    parts[2] = b"\0\x22" + bytes(24)  # the same set as a bitmap
    for other, of in (
        (data[:-1] + bytes([data[-1] | 8]), like),  # a bit of the padding
        (b"\xdc\0" + bytes([data[0] & 15]) + data[1:], like),  # the array header of three bytes
        (msgpack.packb(parts), ids),
    ):
        with pytest.raises(ValueError, match="is not how these numbers are written"):
            wire.from_bytes(other, of)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused_by_option(number):
    sent = {"a": np.float32([1, number]), "b": np.int32([1])}
    data = wire.to_bytes(sent)
    np.testing.assert_array_equal(wire.from_bytes(data, sent)["a"], sent["a"])
    with pytest.raises(ValueError, match="not finite; reject"):
        wire.from_bytes(data, sent, finite=True)


def test_four_gibibytes_are_not_counted_as_nothing():
    leaf = jax.ShapeDtypeStruct((2**28,), jnp.float32)
    with pytest.raises(ValueError, match=r"may send 4.0 GiB, and the ledger counts to 4 GiB"):
        jax.eval_shape(wire.nbytes, [leaf] * 4)
    assert jax.eval_shape(wire.nbytes, [leaf] * 3).dtype == jnp.uint32


def test_what_has_no_symbols_says_nothing_of_their_coder():
    """One bit of the head is the coder, which is of `Codes` alone."""
    packet = {"dense": np.ones(3, np.float32)}
    sent = bytearray(wire.to_bytes(packet))
    assert sent[2] == 0
    sent[2] = 1
    with pytest.raises(ValueError, match="is not how these numbers are written"):
        wire.from_bytes(bytes(sent), packet)
    if wire.can_range_code():
        assert wire.to_bytes(packet, entropy=True) == wire.to_bytes(packet)
