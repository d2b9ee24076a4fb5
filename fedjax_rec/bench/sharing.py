"""Adapters of many clients, where the layers below them are computed once and texts are packed.

As `adapters`, with adapters in the last layers alone or texts of different lengths. The plain loop
is what one writes first: the whole encoder for each client, a text a row, padded. It is what all
others are held against, in time and in numbers; a loop that shares the same work is among them, so
that rows tell what sharing is worth and what the one call is.

Numbers are those of the plain loop: losses, and the change of the adapters in a round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import simulate, trees
from ..types import State
from .adapters import CLIENTS, MINILM, TIMES, World, loop, one_call, ratios, seconds
from .row import Row
from .texts import SHORTEST

# (texts of a step, tokens of a text, last layers with adapters) and what the call has to reach.
SHAPES = {
    (4, 16, 1): ">= 2", (2, 8, 1): "", (1, 8, 1): ">= 3"
}  # fmt: skip
CHUNK = 16
# Of SGD: a change as large as what it changes, whose rounding would hide the change else.
RATE = 100.0
ONCE, PACKED = ", layers below once", ", packed"


def begun(world: World) -> State:
    """A state whose adapters do something: B starts at zero, which would hide what A does."""
    made = world.strategy(CHUNK).init(jax.random.key(0), world.clients)
    rng = np.random.default_rng(0)
    noise = lambda x: x if x is None else x + jnp.asarray(0.01 * rng.normal(size=x.shape), x.dtype)
    moved = jax.tree.map(noise, trees.trainable(made.shared))
    return replace(made, shared=trees.with_frozen(moved, made.shared))


def apart(one: Callable[[], Any], other: Callable[[], Any], state: State) -> float:
    """How far the change of `state` in a round, `one`, is from the mean of the updates of `other`,
    a loop: the largest difference over the largest number; of losses likewise."""
    (shared, losses), (updates, by_one) = one(), other()
    before, after = trees.trainable(state.shared), trees.trainable(shared)
    leaves = zip(*map(jax.tree.leaves, (before, after, *updates)), strict=True)
    mean, change = [], []
    for a, b, *of_clients in leaves:
        mean.append(np.mean([np.asarray(x) for x in of_clients], 0).ravel())
        change.append((np.asarray(b) - np.asarray(a)).ravel())
    pairs = (np.concatenate(mean), np.concatenate(change)), (np.array(by_one), np.array(losses))
    return max(float(np.abs(x - y).max() / np.abs(x).max()) for x, y in pairs)


def sharing() -> Iterator[Row]:
    simulate.configure(1, cache=None)
    layers = MINILM.layers
    for (batch, tokens, adapted), goal in SHAPES.items():
        plain = World(batch=batch, tokens=tokens, adapted=adapted, rate=RATE)
        what = f"{CLIENTS} MiniLM clients, {batch} x {tokens} tokens, "
        what += f"adapters in {adapted} of {layers} layers"
        yield from compared(what, {"": plain, ONCE: replace(plain, once=True)}, goal)
    plain = World(clients=16, batch=16, varied=True, adapted=1, rate=RATE)
    what = f"{plain.clients} MiniLM clients, 16 x {SHORTEST} to {plain.tokens} tokens, "
    once = replace(plain, once=True)
    worlds = {"": plain, ONCE: once, ONCE + PACKED: replace(once, packed=True)}
    yield from compared(f"{what}adapters in 1 of {layers} layers", worlds)


def compared(what: str, worlds: dict[str, World], goal: str = "") -> Iterator[Row]:
    """Of each of `worlds`, which compute the same, a loop, and of all but the first one call; the
    first loop is what they are held against, and the last call what the goal is of."""
    calls, states = {}, {how: begun(world) for how, world in worlds.items()}
    for how, world in worlds.items():
        calls["loop" if not how else f"a loop{how}"] = loop(world, states[how])
        if how:
            calls[f"one call{how}"] = one_call(world, states[how], CHUNK)
    clock = "CPU" if jax.default_backend() == "cpu" else "wall"
    goals = {f"one call{list(worlds)[-1]}": goal}
    yield from ratios(what, seconds(calls, TIMES), clock, goals, "sharing")
    worst = max(apart(calls[f"one call{how}"], calls["loop"], states[how]) for how in worlds if how)
    yield Row("sharing", f"{what}: losses and changes, from the loop's", worst, "", "<= 1e-5")
