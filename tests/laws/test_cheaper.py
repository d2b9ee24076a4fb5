"""Small dense leaves: never more bytes than the numbers themselves, exactly then, and as they were
where compressing pays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compressors_registry import COMPRESSORS
from rotating import in_turn
from rounds import FIRST
from worlds import compiled

from fedjax_rec import compress, wire
from fedjax_rec.compress.cheaper import SMALL, cheaper
from fedjax_rec.testing.updates import model_of, update
from fedjax_rec.types import Compressor, Packet

KEY = jax.random.key(5)
# How much these send hangs on a draw, or the mask of a model, so they keep a leaf that they may
# make smaller.
DRAWN = [name for name in COMPRESSORS if "random_mask" in name or "masked" in name]


def sent(compressor, update, key=KEY):
    """(bytes, what arrives) of the first round."""
    packet = compiled(compressor.encode)(key, compressor.init(update), update, FIRST)[1]
    return len(wire.to_bytes(packet)), compressor.decode(packet, update, FIRST)


def shapes(name):
    if "partition" in name:
        return []  # of a model with rows, below
    return [(1,), (2,), (3,), (10,), (2, 5)]


@pytest.mark.parametrize("name", in_turn([n for n in COMPRESSORS if n not in DRAWN], 12))
def test_no_small_leaf_costs_more_than_its_numbers(name):
    rng = np.random.default_rng(0)
    part = cheaper(COMPRESSORS[name].make())
    for shape in shapes(name):
        x = jnp.float32(rng.normal(size=shape))
        raw = 3 + 2 + 4 * x.size
        nbytes, back = sent(part, {"bias": x})
        assert nbytes <= raw, f"{nbytes} bytes of {shape}, which are {raw}"
        if nbytes == raw:
            np.testing.assert_array_equal(back["bias"], x)


@pytest.mark.parametrize("name", [n for n in DRAWN if "partition" not in n])
def test_what_hangs_on_a_draw_costs_a_header_more_at_most(name):
    """They pay where they send little enough, which shapes do not say."""
    part = cheaper(COMPRESSORS[name].make())
    for size in (1, 2, 3, 10):
        assert sent(part, jnp.arange(1.0, 1 + size))[0] <= 3 + 2 + 4 * size + 24


def test_all_that_ships_can_be_kept_from_a_leaf():
    assert all(law.make().takes_raw for law in COMPRESSORS.values())


def test_what_looks_into_an_update_itself_is_left_alone():
    own = Compressor(
        lambda update: (),
        lambda key, memory, update, now: (memory, Packet(2 * update["bias"])),
        lambda packet, like, now: {"bias": packet.body / 2},
    )
    assert cheaper(own) is own


def test_what_pays_is_compressed_as_before():
    """The same bytes as without, where they are fewer than those of the numbers."""
    x = {"bias": jnp.float32([1.0, -2.0, 0.5]), "kernel": jnp.ones((9, 7)), "scale": jnp.ones(())}
    for make in (compress.cast, lambda: compress.qsgd(7), lambda: compress.top_k(0.1)):
        plain, part = make(), cheaper(make())
        a, b = (compiled(c.encode)(KEY, c.init(x), x, FIRST)[1] for c in (plain, part))
        for one, other in zip(a.body.values(), b.body.values(), strict=True):
            if not isinstance(other, wire.Raw):
                assert jax.tree.structure(one) == jax.tree.structure(other)
                jax.tree.map(np.testing.assert_array_equal, one, other)
        assert not isinstance(b.body["kernel"], wire.Raw)
        assert wire.nbytes(b) <= wire.nbytes(a)
    # By hand: 8 bits and a scale of 6 bytes against 6 bytes; 3 of 2 and 2 against 12 and 2.
    part = cheaper(compress.scaled_cast())
    packet = part.encode(KEY, part.init(x), x, FIRST)[1]
    raw = [isinstance(packet.body[name], wire.Raw) for name in ("bias", "kernel", "scale")]
    assert raw == [False, False, True]
    assert int(wire.nbytes(packet)) == 3 + (2 + 3) + (2 + 4) + (2 + 63) + (2 + 4) + (2 + 4)


def test_the_shape_decides_and_never_the_numbers():
    part = cheaper(compress.sparse_ternary(0.3))
    packets = [
        part.encode(KEY, part.init(x), x, FIRST)[1]
        for x in ({"b": jnp.zeros(2)}, {"b": jnp.ones(2)}, {"b": jnp.float32([1e9, 0])})
    ]
    assert all(isinstance(p.body["b"], wire.Raw) for p in packets)
    large = jnp.ones(SMALL + 1)
    one = compress.rotate()
    assert sent(cheaper(one), large)[0] == sent(one, large)[0]


def test_rules_find_a_raw_leaf_and_tables_are_left_alone():
    """A rule for a bias that is sent raw is a rule that fits; rows are compressed whatever they
    cost."""
    x = update(touched=1)
    rules = {"rows": compress.eden(4, block=64), "bias|vector": compress.eden(4, block=64)}
    part = cheaper(compress.partition(rules))
    packet = compiled(part.encode)(KEY, part.init(model_of(x)), x, FIRST)[1]
    raw = [y for y in wire.nodes(packet.body) if isinstance(y, wire.Raw)]
    assert [y.values.shape for y in raw] == [()]
    arrived = jax.tree.map(jnp.asarray, wire.from_bytes(wire.to_bytes(packet), packet))
    back = compiled(part.decode)(arrived, x, FIRST)
    assert float(back["bias"]) == float(x["bias"])
    assert not np.array_equal(back["item"].values, x["item"].values)


def test_error_feedback_remembers_nothing_of_what_is_sent_whole():
    part = cheaper(compress.error_feedback(compress.scaled_sign()))
    x = {"bias": jnp.float32([3.0]), "kernel": jnp.arange(12.0).reshape(3, 4)}
    memory = part.init(x)
    assert [m.shape for m in jax.tree.leaves(memory)] == [(3, 4)]
    for _ in range(3):
        memory, packet = part.encode(KEY, memory, x, FIRST)
        assert float(part.decode(packet, x, FIRST)["bias"][0]) == 3.0
