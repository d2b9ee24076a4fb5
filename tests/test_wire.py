"""Messages: exact sizes, the order of rows, and bytes that are no message."""

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


@pytest.mark.parametrize("parts", [0, 1, 13, 14, 15, 16, 40])
def test_many_parts(parts):
    packet = Packet([jnp.zeros(2)] * parts)
    sent = wire.to_bytes(packet)
    assert int(wire.nbytes(packet)) == len(sent) and len(msgpack.unpackb(sent)) == parts + 1


@pytest.mark.parametrize(
    ("size", "bits"),
    [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (3416, 12), (2**20, 20), (2**20 + 1, 21)],
)
def test_bits_of_a_row_id(size, bits):
    assert wire.id_bits(size) == bits


def test_an_update_with_origin_sends_the_change():
    table = Table(jnp.float32(np.random.default_rng(0).normal(size=(9, 2))))
    local = rows.localize(table, jnp.int32([4, 4, 7, 9]))
    update = rows.update_of(local, table)
    moved = RowsUpdate(
        update.values + jnp.where(update.live[:, None], 1.0, 0.0),
        update.ids,
        update.live,
        update.origin,
        update.size,
    )
    back = wire.from_bytes(wire.to_bytes(moved), moved)
    assert back.ids.tolist() == [4, 7]
    np.testing.assert_allclose(back.values, 1, rtol=1e-6)


@pytest.mark.parametrize("whole", [True, False])
def test_a_scaled_update_arrives_scaled(whole):
    """`rows.scaled` keeps its factor aside, which is not sent: the rows sent have to carry it."""
    update = rows.scaled(table_update(20, [4, 7], whole=whole), 3.0)
    sent = wire.to_bytes(update)
    assert int(wire.nbytes(update)) == len(sent)
    back = wire.from_bytes(sent, update)
    np.testing.assert_allclose(rows.to_dense(back), rows.to_dense(update), rtol=1e-6)


def test_nbytes_runs_under_vmap():
    several = [table_update(40, t, whole=True) for t in ([], [3], [1, 5, 39])]
    together = jax.tree.map(lambda *x: jnp.stack(x), *several)
    assert jax.vmap(wire.nbytes)(together).tolist() == [len(wire.to_bytes(x)) for x in several]


LIKE = Packet({"item": table_update(20, [1, 2]), "bias": jnp.zeros(3)})
GOOD = wire.to_bytes(LIKE)


def repacked(*parts):
    return msgpack.packb(list(parts), use_bin_type=True)


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
        repacked(2, b"", b"", b""),
        repacked(1),
        repacked(1, bytes(12), bytes(2)),
        repacked(1, bytes(11), b"\x00", bytes(12)),
        repacked(1, "text", b"\x00", bytes(12)),
        repacked(1, bytes(12), b"\x00\x00\x00", bytes(12)),
        repacked(1, bytes(12), b"\x00", bytes(13)),
        repacked(1, bytes(12), b"\x1f", bytes(12)),  # row 31 of 20
        repacked(1, bytes(12), 5, bytes(12)),
        repacked(1, bytes(12), b"\x00", 5),
    ],
)
def test_bytes_that_are_no_message_are_refused(data):
    with pytest.raises(ValueError, match=r"^from_bytes\(data"):
        wire.from_bytes(data, LIKE)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_refused_or_read(data):
    try:
        wire.from_bytes(data, LIKE)
    except ValueError as error:
        assert str(error).startswith("from_bytes(data")
