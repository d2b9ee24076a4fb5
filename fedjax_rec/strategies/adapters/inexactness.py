"""How far a rule is from the mean of what clients trained, among the metrics of a round.

    w = W + s A B (of Fed-SB A R B) of all adapted layers, one after another;  w_k of client k
    D = sum_k p_k w_k - w                                what the round is to change
    inexactness = |(w' - w) - D| / |D|                   w': what the rule made of it
    drift       = sqrt(sum_k p_k |w_k - w|^2) / |D|      1 where all clients go the same way

p_k are shares of the examples and norms those of Frobenius. A client of rank r_k has its first r_k
components, so that what a rule does with those that few hold is in it as well, and so is what an
uplink loses. 0 is exact. Rules know nothing of it: the clients of the round are trained once more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from ... import factors, trees
from ...check import at_least
from ...clients import Local
from ...data import Batches
from ...factors import CORE, KERNEL, SCALE, A, B
from ...rows.narrow import wide
from ...types import Cohort, Compressor, Model, PyTree, Server, State, Strategy, Transform
from .rules import fedit

NAMES = ("inexactness", "drift")


def with_inexactness(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    recipe: Callable[..., Strategy] = fedit,
    every: int = 1,
    settings: Mapping[str, Any] | None = None,
    optimizer: Local | Sequence[Local] | Transform | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    uplink: Compressor | None = None,
    server: Server | Transform | None = None,
    clients_per_chunk: int | str | None = None,
) -> Strategy:
    """`recipe`, and the metrics `inexactness` and `drift` of its rounds.

    What is trained is that of `recipe`. They are of the last round that was looked at.
    Arguments that are not named here are those of `fedavg`.

    Args:
        recipe: a rule whose adapters are shared, all but `fedsa_lora`.
        every: rounds every, 2 every, ... are looked at, and train their clients twice.
        settings: further arguments of `recipe`, by name.

    Raises:
        ValueError: for every < 1; when the state is made, for a model without shared adapters, and
            for those of `models.dora`.

    Example:
        >>> strategy = strategies.with_inexactness(
        ...     adapted, data.pointwise(4), recipe=strategies.flora
        ... )
    """
    at_least("with_inexactness", "every", every, 1)
    inner = recipe(
        model, examples, probe, optimizer=optimizer, epochs=epochs, steps=steps,
        batch_size=batch_size, uplink=uplink, server=server, clients_per_chunk=clients_per_chunk,
        **settings or {},
    )  # fmt: skip
    uploads: Any = inner.uploads

    def init(key, num_clients):
        state = inner.init(key, num_clients)
        _check(state.shared)
        return _telling(state, dict.fromkeys(NAMES, jnp.float32(jnp.nan)))

    def round(key, state: State, cohort: Cohort, chunk: int | None = None):
        after, info = inner.round(key, state, cohort, chunk)

        def looked():
            sent = uploads(key, state, cohort)
            ranks = info.metrics.get("rank")
            return measured(state.shared, after.shared, sent, info.weight, ranks)

        before = state.server["adapters"].numbers
        due = (state.round + 1) % every == 0
        return _telling(after, jax.lax.cond(due, looked, lambda: before)), info

    return replace(inner, init=init, round=round)


def measured(
    before: PyTree, after: PyTree, sent: PyTree, weight: jax.Array, ranks: jax.Array | None = None
) -> dict[str, jax.Array]:
    """{"inexactness": float32[], "drift": float32[]} of a round of `c` clients.

    before, after: what all share. sent: updates, leaves [c, ...]. weight: float32[c], examples.
    ranks: [c], of each client; None where all have all components. NaN where nothing is to change.
    """
    layers = list(_layers(before))
    share = weight / jnp.maximum(weight.sum(), 1.0)
    updates = _found(before, sent)

    def add(carry, client):
        total, squares = carry
        p, rank, update = client
        moved = [
            jnp.where(p > 0, _product(_held(x, rank), u) - _product(x), 0.0)
            for x, u in zip(layers, update, strict=True)
        ]
        total = [t + p * m for t, m in zip(total, moved, strict=True)]
        return (total, squares + p * _squares(moved)), None

    zeros = [jnp.zeros(x[KERNEL].shape, jnp.float32) for x in layers]
    clients = share, ranks, updates
    (wanted, squares), _ = jax.lax.scan(add, (zeros, jnp.float32(0)), clients)
    missed = [
        _base(new) - _base(old) + _product(new) - _product(old) - want
        for old, new, want in zip(layers, _layers(after), wanted, strict=True)
    ]
    change = _squares(wanted)
    of_change = lambda x: jnp.sqrt(jnp.where(change > 0, x / change, jnp.nan))
    return {"inexactness": of_change(_squares(missed)), "drift": of_change(squares)}


def _telling(state: State, numbers: dict) -> State:
    return replace(state, server={**state.server, "adapters": trees.Told(numbers)})


def _is_adapted(node) -> bool:
    return isinstance(node, dict) and all(name in node for name in (KERNEL, SCALE, A, B))


def _found(shared: PyTree, tree: PyTree) -> list[dict]:
    """What `tree`, structured as `shared`, has where that has adapters."""
    found: list[dict] = []
    factors.map_layers(_is_adapted, lambda layer, x: found.append(x), shared, tree)
    return found


def _layers(shared: PyTree) -> list[dict]:
    """The adapted layers, without what says that parts of them are frozen."""
    bare = lambda x: x.value if trees.is_frozen(x) else x
    return [{name: bare(x) for name, x in layer.items()} for layer in _found(shared, shared)]


def _held(layer: dict, rank: jax.Array | None) -> dict:
    return layer if rank is None else factors.cut(layer, rank)


def _product(layer: dict, update: dict | None = None) -> jax.Array:
    """float32[..., in, out]: s A B, or s A R B, after an update where one is given."""

    def now(name):
        x = layer[name].astype(jnp.float32)
        change = None if update is None else update[name]
        return x if change is None or trees.is_frozen(change) else x + change

    a = factors.product(now(A), now(CORE)) if CORE in layer else now(A)
    return layer[SCALE][..., None, None] * factors.product(a, now(B))


def _base(layer: dict) -> jax.Array:
    """float32[..., in, out]: W; 0 of one that is quantised, which no rule changes."""
    kernel = layer[KERNEL]
    return jnp.float32(0) if hasattr(kernel, "qvalue") else wide(kernel).astype(jnp.float32)


def _squares(arrays: Sequence[jax.Array]) -> jax.Array:
    return sum((x * x).sum() for x in arrays) + jnp.float32(0)


def _check(shared: PyTree) -> None:
    layers = _found(shared, shared)
    if not layers:
        raise ValueError(
            "with_inexactness(recipe=...) finds no layer whose lora_a and lora_b are shared; make "
            "the model with models.lora, and use a rule that shares both."
        )
    if any("lora_m" in layer for layer in layers):
        raise ValueError(
            "with_inexactness looks at layers that mean W + s A B, and those of models.dora do "
            "not; use models.lora."
        )
