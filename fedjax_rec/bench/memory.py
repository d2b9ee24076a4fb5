"""What a run is foreseen to hold, against what its process holds: three kinds of models.

A process of its own makes the program, begins, plays a call, and then two more. Real is the highest
resident memory of those two (VmHWM of Linux, set back before them; drawing random weights, as the
beginning does here, takes more), less what was resident when the program was compiled and nothing
had begun: Python, jax, and what a compiler leaves behind. The clients' data, which were there
already, are added. Foreseen is `simulate.forecast`.

Live arrays are those that jax holds between calls, over what they should be: base, model, state and
data, each once.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax

from .. import data, models, simulate, strategies, trees
from ..models.transformers.families.llama import LlamaSize
from ..types import Strategy
from .adapters import World
from .decoders import SIZES, Asked
from .fresh import in_fresh_process
from .row import Row
from .tables import store

STATUS, REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")
ROUNDS = 2


@dataclass(frozen=True)
class Small:
    """Sizes of what is measured; those of the defaults are what the page has."""

    items: int = 2_000_000
    clients: int = 16
    decoder: LlamaSize = field(default_factory=lambda: SIZES["SmolLM2-135M"])
    tokens: int = 64


def worlds(small: Small) -> dict[str, Callable[[], tuple[Strategy, Any]]]:
    """name -> () -> (strategy, the clients' data)."""

    def encoder():
        world = World(clients=small.clients)
        return world.strategy(), world.cohort().data

    def decoder():
        world = Asked(small.decoder, clients=4, tokens=small.tokens)
        return world.strategy(), world.cohort().data

    def fedmf():
        packed = store(64, small.items, 16)
        model = models.fedmf(small.items, width=16)
        return strategies.fedmf(model, data.pointwise(4), batch_size=64), packed

    return {
        "adapters in an encoder of MiniLM's size": encoder,
        "yes or no of a decoder of SmolLM2-135M's size": decoder,
        f"FedMF of {small.items:,} rows": fedmf,
    }


def memory() -> Iterator[Row]:
    row = partial(Row, "memory")
    for what in worlds(Small()):
        found = in_fresh_process("memory", f"played({what!r})")
        yield row(f"{what}: foreseen", found["foreseen"] / 2**20, "MiB", "")
        yield row(f"{what}: real", found["real"] / 2**20, "MiB", "")
        yield row(f"{what}: real over foreseen", found["real"] / found["foreseen"], "",
                  "0.85 to 1.15")  # fmt: skip
        yield row(f"{what}: live arrays over base, model, state and data, each once",
                  found["live"] / found["once"], "", "<= 1.05")  # fmt: skip


def played(what: str, small: Small | None = None) -> dict[str, int]:
    """Bytes foreseen, real and of live arrays, in this process.

    Raises RuntimeError where the system does not tell what a process holds.
    """
    if not REFERENCES.exists():
        raise RuntimeError("memory is measured on Linux alone, by /proc/self")
    simulate.configure(1, cache=None)
    strategy, packed = worlds(small or Small())[what]()
    key = jax.random.key(0)
    calls = simulate.program(lambda _: simulate.Parts(strategy)).of(key)
    like = jax.eval_shape(lambda: strategy.init(key, packed.num_clients))
    compiled = calls.compiled(like, packed, 1, 1)
    foreseen = simulate.forecast(compiled, like)
    state = jax.block_until_ready(calls.start(packed))  # compiles what begins a run
    del state
    gc.collect()
    jax.block_until_ready(jax.tree.leaves(packed))
    before = _resident("VmRSS")
    # What drew random weights is given back by the time that a first call has been played.
    state = compiled.call(calls.start(packed), packed)[0]
    jax.block_until_ready(jax.tree.leaves(state))
    gc.collect()
    REFERENCES.write_text("5")  # sets VmHWM back to what is resident
    for _ in range(ROUNDS):
        state, told = compiled.call(state, packed)
        jax.block_until_ready(jax.tree.leaves((state, told)))
    real = _resident("VmHWM") - before + trees.nbytes(packed)
    del told
    gc.collect()
    live = sum(x.nbytes for x in jax.live_arrays() if not x.is_deleted())
    once = trees.nbytes((state, packed))
    return {"foreseen": foreseen.peak, "real": real, "live": live, "once": once}


def _resident(name: str) -> int:
    (line,) = [x for x in STATUS.read_text().splitlines() if x.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024
