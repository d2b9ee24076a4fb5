"""Spoilt messages by the thousand: each is refused in one line or is the message of its packet.

`MUTANTS=1000000 make slow` tries so many.
"""

import os
import time
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import compress, wire
from fedjax_rec.rows import RowsUpdate
from fedjax_rec.types import Now, Packet
from fedjax_rec.wire import Codes, Elias, Live

COUNT = int(os.environ.get("MUTANTS", "20000"))


def packet(seed: int) -> Packet:
    """Of nodes of every kind, of which many are small: a byte more or less is then noticed."""
    rng = np.random.default_rng(seed)
    ids = np.sort(rng.choice(90, 12, replace=False)).astype(np.int32)
    live = np.ones(12, bool)
    body = {
        "dense": rng.normal(size=5).astype(np.float32),
        "half": jnp.asarray(rng.normal(size=3), jnp.bfloat16),
        "flags": rng.random(11) < 0.5,
        "codes": Codes(rng.integers(0, 7, 9).astype(np.uint8), 7),
        "trits": Codes(rng.integers(0, 3, 8).astype(np.uint8), 3),
        "rows": RowsUpdate(rng.normal(size=(12, 2)).astype(np.float32), ids, live, None, 90),
        "most": RowsUpdate(np.zeros((90, 0), np.float32), None, np.arange(90) != 7, None, 90),
        "elias": Elias(rng.integers(-3, 4, 10).astype(np.int32)),
    }
    side = [Live(rng.normal(size=4).astype(np.float32), np.ones(4, bool)), np.uint32([seed])]
    return Packet(body, side)


def spoilt(data: bytes, rng) -> bytes:
    """A byte or two changed, cut out, put in or copied from elsewhere in the message."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at, other = rng.integers(0, len(data), 2)
        match rng.integers(0, 5):
            case 0:
                data[at] ^= 1 << int(rng.integers(0, 8))
            case 1:
                data[at] = int(rng.choice([0, 1, 0x7F, 0x80, 0x90, 0xC4, 0xC6, 0xDD, 0xFF]))
            case 2:
                del data[at : at + int(rng.integers(1, 5))]
            case 3:
                data[at:at] = rng.bytes(int(rng.integers(1, 5)))
            case _:
                data[at : at + 4] = data[other : other + 4]
        if not data:
            return b""
    return bytes(data)


@pytest.mark.slow
def test_spoilt_messages_are_refused_or_have_one_meaning():
    rng = np.random.default_rng(0)
    packets = [packet(seed) for seed in range(8)]
    messages = [wire.to_bytes(p) for p in packets]
    assert all(wire.from_bytes(m, packets[0]) is not None for m in messages)
    accepted = worst = peak = 0
    tracemalloc.start()
    for i in range(COUNT):
        if i == min(2000, COUNT - 1):  # it slows what it watches
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        data = spoilt(messages[i % 8], rng)
        began = time.process_time()
        try:
            found = wire.from_bytes(data, packets[0], finite=True)
        except ValueError as error:
            told = str(error)
            assert told.startswith("from_bytes(data") and "\n" not in told, told
        else:
            accepted += 1
            if i < 20_000:
                # The table that came as a mask is written as one.
                most = found.body["most"]
                there = np.isin(np.arange(90), most.ids)
                again = RowsUpdate(np.zeros((90, 0), np.float32), None, there, None, 90)
                body = {**found.body, "most": again}
                assert wire.to_bytes(Packet(body, found.side)) == data
        worst = max(worst, time.process_time() - began)
    print(
        f"{COUNT} mutants, {accepted} accepted; {worst:.3f} s at worst, peak {peak / 2**20:.1f} MiB"
    )
    assert peak < 8 * 2**20 and worst < 1.0


FIRST = Now(jnp.int32(0), ())
KERNEL = {"kernel": jnp.float32(np.random.default_rng(3).normal(size=(6, 8)))}


def below_zero(x) -> bool:
    return bool((np.asarray(x, np.float32) < 0).any())


# What an accepted packet is asked besides, of a matrix [6, 8], in words of this test.
PARTS = {
    "top_k": (compress.top_k(0.1), lambda p: len(p.body["kernel"].ids) <= 5),
    "columns": (compress.columns(0.25), lambda p: p.side[0].sum() == 2),
    "qsgd": (compress.qsgd(7), lambda p: not below_zero(p.side[0])),
}
SLOW = {
    "top_k_per_row": (
        compress.top_k_per_row(2),
        lambda p: (np.diff(p.side[0].symbols.astype(int), axis=-1) > 0).all(),
    ),
    "random_k": (compress.random_k(0.1), lambda p: len(p.body["kernel"].values) == 5),
    "eden": (compress.eden(2, block=16), lambda p: not below_zero(p.side[1][0].values)),
    "ternary": (compress.sparse_ternary(0.1), lambda p: len(p.body["kernel"].ids) <= 5),
    "elias": (compress.qsgd_elias(4), lambda p: np.abs(p.body["kernel"].values).max() <= 4),
    "svd": (compress.truncated_svd(2), lambda p: True),
}


def held_against(part, agrees, count: int) -> int:
    """How many of `count` mutants of a message its opener takes; each can have been sent."""
    rng = np.random.default_rng(1)
    encode = jax.jit(part.encode, compiler_options={"xla_backend_optimization_level": 0})
    packet = jax.device_get(encode(jax.random.key(0), part.init(KERNEL), KERNEL, FIRST)[1])
    opened, data, accepted = compress.opener(part, KERNEL, FIRST), wire.to_bytes(packet), 0
    assert wire.to_bytes(opened(data)) == data
    for _ in range(count):
        mutant = spoilt(data, rng)
        try:
            found = opened(mutant)
        except ValueError as error:
            assert str(error).startswith(("from_bytes(data", "opened(data")), error
            assert "\n" not in str(error)
        else:
            accepted += 1
            assert agrees(found) and wire.to_bytes(found) == mutant
            back = part.decode(found, KERNEL, FIRST)["kernel"] if count > 1000 else np.zeros((6, 8))
            assert back.shape == (6, 8)
    return accepted


@pytest.mark.parametrize("name", PARTS)
def test_what_is_opened_can_have_been_sent(name):
    assert held_against(*PARTS[name], count=200) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PARTS, *SLOW])
def test_what_is_opened_can_have_been_sent_of_many(name):
    assert held_against(*{**PARTS, **SLOW}[name], count=COUNT // 10) > 0
