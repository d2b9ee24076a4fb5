"""What a client sends does not hang on the room that the others of its chunk need."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import compress, wire
from fedjax_rec.compress.sketch import coordinates
from fedjax_rec.rows import RowsUpdate
from fedjax_rec.types import Now

KEY = jax.random.key(3)
NOW = Now(jnp.int32(0), (), jnp.int32(0))
IDS = np.sort(np.random.default_rng(0).choice(20_000, 700, replace=False)).astype(np.int32)


def in_a_buffer(length: int) -> RowsUpdate:
    """The same 700 rows of 8 numbers of a table of 20,000, with room for `length` rows."""
    values = np.zeros((length, 8), np.float32)
    values[:700] = np.random.default_rng(1).normal(size=(700, 8))
    ids = np.full(length, 20_000, np.int32)
    ids[:700] = IDS
    live = np.arange(length) < 700
    return RowsUpdate(jnp.asarray(values), jnp.asarray(ids), jnp.asarray(live), None, 20_000)


@pytest.mark.parametrize(
    "make",
    [
        lambda: compress.eden(1, block=2**15),
        lambda: compress.chain(compress.rotate(block=2**14), compress.stochastic_uniform(4)),
        lambda: compress.count_sketch(3, 4000),
        lambda: compress.top_k(0.01),
        lambda: compress.random_k(0.01),
    ],
    ids=["eden", "rotate", "count_sketch", "top_k", "random_k"],
)
def test_bytes_and_numbers_are_the_clients_own(make):
    """Buffers of 8,192, 21,848 and 65,536 coordinates, as `rounds.uplink` makes them."""
    compressor, found = make(), []
    for length in (1024, 2731, 8192):
        x = {"item": in_a_buffer(length)}
        _, packet = compressor.encode(KEY, compressor.init(x), x, NOW)
        back = compressor.decode(packet, x, NOW)["item"]
        rows = np.zeros((20_001, 8), np.float32)
        rows[np.asarray(back.ids)] = np.where(np.asarray(back.live)[:, None], back.values, 0)
        found.append((int(wire.nbytes(packet)), rows[:20_000]))
    assert len({nbytes for nbytes, _ in found}) == 1
    for _, rows in found[1:]:
        np.testing.assert_allclose(rows, found[0][1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("around", [compress.ef21, compress.diana])
@pytest.mark.parametrize("inner", [compress.cast, lambda: compress.eden(2, unbiased=False)])
def test_touched_ids_are_sent_once(around, inner):
    x = {"item": in_a_buffer(1024), "bias": jnp.ones(5)}
    plain, memory = around(inner()), around(inner()).init(x)
    _, packet = plain.encode(KEY, memory, x, NOW)
    _, alone = inner().encode(KEY, inner().init(x), x, NOW)
    # Of no row is anything missing: an empty set, and no numbers.
    assert int(wire.nbytes(packet)) - int(wire.nbytes(alone)) <= 8


def test_rows_of_which_nothing_is_sent_are_told():
    """top_k sends of few rows; the receiver adds the shift to all that were touched."""
    x = {"item": in_a_buffer(1024)}
    compressor = compress.ef21(compress.top_k(0.01))
    memory, packet = compressor.encode(KEY, compressor.init(x), x, NOW)
    memory, packet = compressor.encode(KEY, memory, x, NOW)
    arrived = jax.tree.map(jnp.asarray, wire.from_bytes(wire.to_bytes(packet), packet))
    for received in (packet, arrived):
        back = compressor.decode(received, x, NOW)["item"]
        live = np.asarray(back.live)
        np.testing.assert_array_equal(np.asarray(back.ids)[live], IDS)
    assert len(wire.to_bytes(packet)) == int(wire.nbytes(packet))


@pytest.mark.parametrize("around", [compress.ef21, compress.diana])
def test_integers_and_flags_arrive(around):
    x = {"count": jnp.int32([3, -4]), "flag": jnp.array([True, False]), "bias": jnp.ones(5)}
    compressor = around(compress.cast())
    _, packet = compressor.encode(KEY, compressor.init(x), x, NOW)
    back = compressor.decode(packet, jax.tree.map(jnp.zeros_like, x), NOW)
    assert back["count"].tolist() == [3, -4] and back["flag"].tolist() == [True, False]


SCALED = {
    "scaled_cast": compress.scaled_cast,
    "scaled_sign": compress.scaled_sign,
    "terngrad": compress.terngrad,
    "qsgd": lambda: compress.qsgd(127),
}


@pytest.mark.parametrize(
    ("name", "size"),
    [(n, size) for n in SCALED for size in (2.0**126, 3e38, 1e-36) if (n, size) != ("qsgd", 1e-36)],
)
def test_what_is_huge_or_tiny_is_not_hidden(name, size):
    """Codes of 2^126 decoded to zeros: a client that had blown up looked like one at rest."""
    compressor = SCALED[name]()
    x = jnp.float32(size) * jnp.float32([1.0, -0.5, 0.25, -1.0])

    @jax.jit
    def sent(x):
        _, packet = compressor.encode(KEY, compressor.init(x), x, NOW)
        return compressor.decode(packet, x, NOW)

    largest = float(jnp.abs(sent(x)).max())
    assert largest > 0.5 * size or not np.isfinite(largest)


def test_a_coordinate_beyond_the_hashes_is_refused():
    table = RowsUpdate(
        jnp.zeros((4, 64)), jnp.arange(4, dtype=jnp.int32), jnp.ones(4, bool), None, 2**27
    )
    with pytest.raises(ValueError, match=r"count_sketch: a node of 8589934592 coordinates"):
        coordinates(table)
