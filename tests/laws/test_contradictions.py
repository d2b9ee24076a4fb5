"""Messages that decode and that no client sends: each is refused in one line, by its own opener."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compressors_registry import COMPRESSORS
from rotating import in_turn
from rounds import FIRST
from worlds import compiled

from fedjax_rec import compress, wire
from fedjax_rec.rows import RowsUpdate
from fedjax_rec.testing.updates import model_of, update
from fedjax_rec.types import Packet
from fedjax_rec.wire import Codes, Elias, Live

KEY = jax.random.key(6)


def honest(part):
    """(a packet of a client that touched seven rows, the update)."""
    x = update()
    x.pop("blocks")  # of which the client says how many there are
    packet = compiled(part.encode)(KEY, part.init(model_of(x)), x, FIRST)[1]
    return jax.device_get(packet), x


def planted(leaf):
    """(what, leaf) of one part of a packet, each a contradiction."""
    if isinstance(leaf, wire.Raw):  # any numbers are an update
        return
    if isinstance(leaf, RowsUpdate):
        if leaf.values.shape[1:] == (1,) and leaf.size == 350:  # of the kernel: all of it
            all_ = np.arange(350, dtype=np.int32)
            values = np.ones((350, 1), np.float32)
            if isinstance(leaf.values, Codes):
                values = Codes(np.zeros((350, 1), leaf.values.symbols.dtype), leaf.values.levels)
            yield "entries", RowsUpdate(values, all_, all_ >= 0, None, 350)
    elif isinstance(leaf, Live):
        live = np.array(leaf.live)
        if live.any():
            live[np.flatnonzero(live)[-1]] = False
            yield "one less", Live(leaf.values, live)
    elif isinstance(leaf, Elias):
        yield "multiples", Elias(np.full(leaf.shape, 10**6, np.int32))
    elif isinstance(leaf, Codes):
        if leaf.levels == 512 and leaf.symbols.size:
            yield "infinity", Codes(np.full_like(leaf.symbols, 255), 512)
        if leaf.levels in (5, 70, 19) and len(leaf.shape) and leaf.shape[-1] == 2:
            yield "columns", Codes(leaf.symbols[..., ::-1], leaf.levels)
    elif leaf.dtype == bool:
        yield "none", np.zeros_like(leaf)
        yield "all", np.ones_like(leaf)
    elif jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.size:
        yield "NaN", np.full_like(leaf, np.nan)


def negated(leaf):
    """A scale turned about, and a range."""
    if isinstance(leaf, Live):
        return Live(-np.abs(leaf.values) - 1, leaf.live)
    return leaf[::-1] if leaf.shape == (2,) else -np.abs(leaf) - 1


def with_leaf(packet, i, leaf):
    found, structure = wire.flatten((packet.body, packet.side))
    leaves = [x for _, x in found]
    return Packet(*structure.unflatten([*leaves[:i], leaf, *leaves[i + 1 :]]), packet.known)


@pytest.mark.parametrize("name", in_turn(COMPRESSORS, 12))
def test_contradictions_are_refused(name):
    part = COMPRESSORS[name].make()
    packet, x = honest(part)
    opened = compress.opener(part, x, FIRST)
    told = []
    opened(wire.to_bytes(packet))
    for i, leaf in enumerate(wire.nodes((packet.body, packet.side))):
        for what, wrong in planted(leaf):
            data = wire.to_bytes(with_leaf(packet, i, wrong))
            with pytest.raises(ValueError, match=r"(opened|from_bytes)\(data") as error:
                opened(data)
            told.append(str(error.value))
            assert "\n" not in told[-1], what
    assert told, f"nothing was planted in {name}"


SCALED = [
    "stochastic_uniform(16)", "qsgd(7)", "qsgd_elias()", "terngrad()", "scaled_sign()",
    "scaled_cast('float8_e4m3fn')", "lloyd_max(3)", "eden(4)", "sparse_ternary(0.3)",
    "diana(qsgd)", "error_feedback(eden)",
]  # fmt: skip


@pytest.mark.parametrize("name", in_turn(SCALED, 4))
def test_scales_below_zero_are_refused(name):
    part = COMPRESSORS[name].make()
    packet, x = honest(part)
    opened = compress.opener(part, x, FIRST)
    body = len(wire.nodes(packet.body))
    tried = 0
    for i, leaf in enumerate(wire.nodes((packet.body, packet.side))):
        values = leaf.values if isinstance(leaf, Live) else leaf
        if i < body or wire.is_node(values) or values.dtype != np.float32:
            continue
        if values.shape == (2,) and values[0] == values[1]:
            continue  # the range of one number
        tried += 1
        with pytest.raises(ValueError, match=r"opened.*(scale is -|which is none)"):
            opened(wire.to_bytes(with_leaf(packet, i, negated(leaf))))
    assert tried


def test_a_complaint_says_what_came_and_what_can():
    x = {"kernel": jnp.arange(40.0).reshape(8, 5)}
    part = compress.top_k(0.1)
    packet = jax.device_get(part.encode(KEY, part.init(x), x, FIRST)[1])
    all_ = np.arange(5, dtype=np.int32)
    more = RowsUpdate(np.ones((5, 1), np.float32), all_, all_ >= 0, None, 40)
    data = wire.to_bytes(Packet({"kernel": more}, packet.side))
    with pytest.raises(ValueError, match=r"counts 5 rows of 4"):
        compress.opener(part, x, FIRST)(data)
    falling = compress.warm_up_top_k(0.5, 0.1, 4)
    packet = jax.device_get(falling.encode(KEY, falling.init(x), x, FIRST)[1])
    later = FIRST.__class__(jnp.int32(9), ())
    told = re.escape("kernel: 20 entries came where at most 4 can; reject what its client sent.")
    with pytest.raises(ValueError, match=told):
        compress.opener(falling, x, later)(wire.to_bytes(packet))


@pytest.mark.parametrize("part", [compress.qsgd(7), compress.qsgd_elias(4)])
def test_scales_of_which_a_multiple_is_no_float_are_refused(part):
    x = {"kernel": jnp.zeros((8, 5)).at[2, 3].set(9.0)}  # the largest multiple
    packet = jax.device_get(part.encode(KEY, part.init(x), x, FIRST)[1])
    last = len(wire.nodes((packet.body, packet.side))) - 1
    data = wire.to_bytes(with_leaf(packet, last, np.float32(3e38)))
    with pytest.raises(ValueError, match=r"opened.*more than a float32 holds"):
        compress.opener(part, x, FIRST)(data)
