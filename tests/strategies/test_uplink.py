"""The uplink of a chunk: rooms change nothing, rows come back in the layout they had."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rounds import FIRST

from fedjax_rec import compress, rows, wire
from fedjax_rec.rounds import uplink
from fedjax_rec.types import Compressor, Packet, Upload

KEY = jax.random.key(3)
ITEMS, WIDTH = 40, 6
IDS, NOW = jnp.arange(3), lambda id: FIRST


def uploads(layout: str, counts, seed=0) -> Upload:
    """Of len(counts) clients, which touched so many rows."""
    rng = np.random.default_rng(seed)
    table = rows.Table(jnp.float32(rng.normal(size=(ITEMS, WIDTH))))
    made = []
    for count in counts:
        ids = jnp.int32(rng.permutation(ITEMS)[:count])
        if layout == "whole":
            local = rows.mark(rows.whole(table), ids, jnp.ones(count))
        else:  # ids stand twice, and behind them is padding
            local = rows.localize(table, jnp.concatenate([ids, ids, jnp.full(60 - 2 * count, 99)]))
        noise = rng.normal(size=local.values.shape) * np.asarray(local.live)[:, None]
        local = replace(local, values=local.values + jnp.float32(noise))
        made.append({"item": rows.update_of(local, table), "bias": jnp.float32(rng.normal(size=3))})
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *made)
    if layout == "whole":  # the server's table, once for all
        stacked["item"] = replace(stacked["item"], origin=table.values)
    weight = jnp.float32([*range(1, len(made)), 0])
    return Upload(stacked, weight, {})


def changes(update, k: int) -> np.ndarray:
    """What client k of a stack changed, as a whole table."""
    item = update["item"]
    one = jax.tree.map(lambda x: x[k], replace(item, origin=None))
    return np.asarray(rows.to_dense(replace(one, origin=item.origin).delta()))


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["whole", "ids"])
def test_every_room_sends_the_same(layout, monkeypatch):
    """An eighth, a third and all of the rows; the bytes, the memory and what arrives."""
    compressor = compress.error_feedback(compress.eden(4, block=32))
    everywhere = jnp.ones(ITEMS, bool)
    blank = rows.RowsUpdate(jnp.zeros((ITEMS, WIDTH)), None, everywhere, None, ITEMS)
    like = {"item": blank, "bias": jnp.zeros(3)}
    keys = jax.random.split(KEY, 3)
    memory = jax.vmap(lambda _: compressor.init(like))(keys)
    options = {"xla_backend_optimization_level": 0}
    sender = uplink.uplink_of(compressor)
    monkeypatch.setattr(uplink, "WORTH", 1)
    in_rooms = jax.jit(lambda *chunk: sender.chunk(IDS, *chunk, NOW), compiler_options=options)
    chunks = {counts: uploads(layout, counts) for counts in [(3, 5, 0), (9, 2, 3), (30, 1, 2)]}
    seen = {counts: in_rooms(keys, memory, sent) for counts, sent in chunks.items()}
    monkeypatch.setattr(uplink, "SHARES", (1.0,))
    in_one = jax.jit(lambda *chunk: sender.chunk(IDS, *chunk, NOW), compiler_options=options)
    for counts, sent in chunks.items():
        after, arrived, sizes = seen[counts]
        again, all_rows, same_sizes = in_one(keys, memory, sent)
        np.testing.assert_array_equal(sizes, same_sizes)
        pairs = zip(*map(jax.tree.leaves, ((after, arrived), (again, all_rows))), strict=True)
        for a, b in pairs:
            np.testing.assert_allclose(a, b, atol=1e-6)
        assert arrived.update["item"].values.shape == sent.update["item"].values.shape
        for k, count in enumerate(counts):
            want, got = changes(sent.update, k), changes(arrived.update, k)
            assert np.abs(got - want).max() <= 0.5 * np.abs(want).max()
            assert (got[~want.any(1)] == 0).all() and want.any(1).sum() == count
        # Who weighs nothing keeps the memory of before; the others owe something now.
        errors = np.abs(np.asarray(after["error"][1])).sum((1, 2))
        assert errors[-1] == 0 and (errors[:-1] > 0).all()


@pytest.mark.parametrize("layout", ["whole", "ids"])
def test_the_ledger_of_a_chunk_is_the_packets(layout):
    sent = uploads(layout, (3, 5, 7))
    keys = jax.random.split(KEY, 3)
    for sender in (uplink.uplink_of(), uplink.uplink_of(compress.qsgd(7))):
        _, _, sizes = sender.chunk(IDS, keys, [(), ()], sent, NOW)
        axes = (0, rows.map_axes(sent))
        one = lambda key, upload, sender=sender: sender.one(key, [(), ()], upload, FIRST)[1]
        packets = jax.vmap(one, in_axes=axes)(keys, sent)
        for k in range(3):
            packet = jax.tree.map(lambda x, k=k: x[k], packets)
            # Who weighs nothing sends nothing.
            assert int(sizes[k]) == (len(wire.to_bytes(packet)) if sent.weight[k] else 0)


def test_what_decodes_to_no_rows_stays_as_it_is():
    """A sketch of all nodes, as FetchSGD's, has no rows to put back."""
    sent = uploads("whole", (3, 5))
    summing = Compressor(
        lambda update: (),
        lambda key, memory, update, now: (memory, Packet(update["item"].values.sum())),
        lambda packet, like, now: packet.body,
    )
    _, arrived, _ = uplink.uplink_of(summing).chunk(
        IDS[:2], jax.random.split(KEY, 2), (), sent, NOW
    )
    want = [changes(sent.update, k).sum() for k in range(2)]
    np.testing.assert_allclose(arrived.update, want, rtol=1e-4)
