"""Tables in blocks of rows: 10^7 rows over eight devices, with the numbers of one.

FedMF, width 8, 512 clients of 16 uniform interactions with 4 negatives each, two rounds of all of
them. The devices are eight of one CPU, so what is measured is memory and numbers, and no speed.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from .. import aggregate, data, models, simulate, strategies
from ..rounds.plan import peak_bytes
from .fresh import in_fresh_process
from .row import Row
from .tables import store

DEVICES, ROWS, ROUNDS = 8, 10**7, 2


def row_blocks() -> Iterator[Row]:
    """Bytes of a device and the largest difference of a number, beside one device."""
    found = in_fresh_process("row_blocks", f"on_devices({ROWS})")
    what = f"{ROWS:,} rows x 8"
    mib = lambda name: found[name] / 2**20
    yield Row("row-blocks", f"{what}: the table", mib("table"), "MiB", "")
    yield Row("row-blocks", f"{what}, one device: peak", mib("one"), "MiB", "")
    yield Row("row-blocks", f"{what}, {DEVICES} devices with a copy each: peak of a device",
              mib("copies"), "MiB", "")  # fmt: skip
    yield Row("row-blocks", f"{what}, {DEVICES} devices with a block each: peak of a device",
              mib("blocks"), "MiB", "")  # fmt: skip
    less = found["copies"] / found["blocks"]
    yield Row("row-blocks", f"{what}: a copy over a block", less, "x", "")
    furthest = found["furthest"] / found["change"]
    yield Row("row-blocks", f"{what}: largest difference to one device, of the largest change",
              furthest, "", "<= 1e-05")  # fmt: skip


def on_devices(items: int, clients: int = 512, each: int = 16) -> dict[str, float]:
    """Bytes of the table and of a device at its peak, and how far numbers are from one device's
    after some rounds, beside what these changed."""
    simulate.configure(1, cache=None, devices=DEVICES)
    model, packed = models.fedmf(items, width=8), store(clients, items, each)
    strategy = strategies.fedmf(
        model, data.pointwise(4), batch_size=64, aggregator=aggregate.mean()
    )
    parts, key = simulate.Parts(strategy), jax.random.key(0)

    def call_on(mesh):
        calls = simulate.program(lambda _: parts, mesh).of(key)
        state = jax.eval_shape(lambda: strategy.init(key, packed.num_clients))
        return calls, calls.compiled(state, packed, 1, ROUNDS)

    found, after = {}, {}
    meshes = {
        "copies": simulate.clients_mesh(DEVICES),
        "blocks": simulate.clients_mesh(DEVICES, DEVICES),
        "one": None,
    }
    for name, mesh in meshes.items():
        calls, compiled = call_on(mesh)
        found[name] = peak_bytes(compiled.memory())
        if name == "copies":  # eight of them are for a larger machine
            continue
        start = calls.start(packed)
        before = _numbers(start)
        after[name] = _numbers(compiled.call(start, packed)[0])
        found["table"] = before[0].nbytes
        found["change"] = max(_apart(x, y) for x, y in zip(before, after[name], strict=True))
    pairs = zip(after["one"], after["blocks"], strict=True)
    return {**found, "furthest": max(_apart(x, y) for x, y in pairs)}


def _numbers(state) -> list[np.ndarray]:
    return [np.array(x) for x in jax.tree.leaves((state.shared, state.private))]


def _apart(x: np.ndarray, y: np.ndarray) -> float:
    return float(jnp.abs(x - y).max())
