"""How compressors are made of one another.

- `identity()`         the update as it is
- `chain(a, b)`        b compresses what a left in the body of its packet
- `partition(rules)`   each part of a model its own way, by role or by path
- `per_leaf(a)`        a on every leaf by itself, where a looks at the whole update
- `scheduled(make, value)`   a compressor whose parameter depends on the round

A compressor maps an update to a packet and back. What ships is the packet, and its bytes are
counted by `wire.nbytes`, so a compressor never reports a size of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import trees
from ..types import Compressor, Packet, PyTree, at_round
from ..wire import is_node
from .remembered import remembers_updates


def identity() -> Compressor:
    """Sends the update as it is. Lossless; touched rows and dense leaves at full precision."""

    def encode(key, memory, update):
        return memory, Packet(update)

    return Compressor(lambda update: (), encode, lambda packet, like: packet.body)


def composed(make: Callable[..., Compressor], *parts: Compressor) -> Compressor:
    """`make(*parts)`, which in round t is made of the parts as they are in round t."""
    if all(part.at is None for part in parts):
        return make(*parts)
    return replace(
        make(*parts),
        at=lambda round, shared: make(*(at_round(part, round, shared) for part in parts)),
    )


def chain(first: Compressor, second: Compressor, *more: Compressor) -> Compressor:
    """Each stage compresses the body of the packet of the one before: `chain(rotate(), natural())`.

    Sides of all stages are sent. Unbiased where all stages are; their errors compound,
    1 + omega = prod_i (1 + omega_i). Error memory belongs around a chain, not inside.
    Raises ValueError, when memory is made, where a stage after the first has some.
    """
    return composed(_chain, first, second, *more)


def _chain(*stages: Compressor) -> Compressor:
    def given(update) -> list:
        """What every stage gets: the update, then bodies of zeros."""
        seen = [update]
        for stage in stages[:-1]:
            memory = jax.eval_shape(stage.init, seen[-1])
            packet = jax.eval_shape(stage.encode, jax.random.key(0), memory, seen[-1])[1]
            seen.append(trees.zeros_like(packet.body))
        return seen

    def init(update):
        memories = [stage.init(x) for stage, x in zip(stages, given(update), strict=True)]
        if any(remembers_updates(memory) for memory in memories[1:]):
            raise ValueError(
                "chain(...): a stage after the first has error memory, but what it gets differs "
                "from round to round; put error_feedback around the whole chain."
            )
        return memories

    def encode(key, memory, update):
        memories, sides, known, body = [], [], [], update
        for i, (stage, kept) in enumerate(zip(stages, memory, strict=True)):
            kept, packet = stage.encode(jax.random.fold_in(key, i), kept, body)
            body = packet.body
            memories.append(kept)
            sides.append(packet.side)
            known.append(packet.known)
        return memories, Packet(body, sides, known)

    def decode(packet, like):
        body = packet.body
        parts = zip(stages, packet.side, packet.known, given(like), strict=True)
        for stage, side, known, x in reversed(list(parts)):
            body = stage.decode(Packet(body, side, known), x)
        return body

    return Compressor(init, encode, decode)


def partition(rules: Mapping[str, Compressor]) -> Compressor:
    """Each part of a model its own way: `partition({"rows": eden(4), "layers/.*": cast()})`.

    rules: what a part is called -> its compressor. `rows` are all tables, `dense` all other
        leaves, anything else a regular expression that must match a leaf's whole path, such as
        `item` or `layers/0/kernel`. The first rule that fits counts; what none fits is sent as it
        is.
    Raises ValueError for a rule that is no regular expression and, when memory is made, for one
    that nothing of the model is left for.
    """
    if not rules:
        raise ValueError("partition(rules={}) says nothing; give names and compressors.")
    for name in rules:
        try:
            re.compile(name)
        except re.error as error:
            raise ValueError(
                f"partition(rules): {name!r} is no regular expression ({error}); use `rows`, "
                "`dense` or a path, with special signs escaped."
            ) from None
    return composed(lambda *parts: _partition(tuple(rules), parts), *rules.values())


def _partition(names: tuple[str, ...], parts: tuple[Compressor, ...]) -> Compressor:
    def divided(update):
        """The nodes of every rule, and those of none, each as {path: node}."""
        found: list[dict] = [{} for _ in range(len(names) + 1)]
        paths, _ = jax.tree.flatten_with_path(update, is_leaf=is_node)
        for path, node in paths:
            called = jax.tree_util.keystr(path, simple=True, separator="/")
            role = "rows" if is_node(node) else "dense"
            fits = [role == n if n in ("rows", "dense") else re.fullmatch(n, called) for n in names]
            place = next((i for i, fit in enumerate(fits) if fit), len(names))
            found[place][called] = node
        for name, held in zip(names, found, strict=False):
            if not held:
                known = [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in paths]
                raise ValueError(
                    f"partition(rules): nothing is left for {name!r}; the model has "
                    f"{', '.join(known)}, and `rows` and `dense`."
                )
        return found

    def joined(found: list[dict], like):
        everything = {name: node for held in found for name, node in held.items()}
        paths, structure = jax.tree.flatten_with_path(like, is_leaf=is_node)
        named = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
        return structure.unflatten(everything[name] for name in named)

    def init(update):
        return [part.init(held) for part, held in zip(parts, divided(update), strict=False)]

    def encode(key, memory, update):
        *mine, rest = divided(update)
        sent = [
            part.encode(jax.random.fold_in(key, i), kept, held)
            for i, (part, kept, held) in enumerate(zip(parts, memory, mine, strict=True))
        ]
        packets = [packet for _, packet in sent]
        body = [*(p.body for p in packets), rest]
        packet = Packet(body, [p.side for p in packets], [p.known for p in packets])
        return [kept for kept, _ in sent], packet

    def decode(packet, like):
        found = divided(like)
        back = [
            part.decode(Packet(body, side, known), held)
            for part, body, side, known, held in zip(
                parts, packet.body, packet.side, packet.known, found, strict=False
            )
        ]
        return joined([*back, packet.body[-1]], like)

    return Compressor(init, encode, decode)


def per_leaf(compressor: Compressor) -> Compressor:
    """`compressor` on each node by itself: `per_leaf(global_top_k(0.01))` is `top_k(0.01)`.

    A leaf has no path there, so `partition` and `masked` belong outside.
    """
    return composed(_per_leaf, compressor)


def _per_leaf(compressor: Compressor) -> Compressor:
    def split(tree: PyTree) -> list:
        return jax.tree.leaves(tree, is_leaf=is_node)

    def init(update):
        return [compressor.init(node) for node in split(update)]

    def encode(key, memory, update):
        sent = [
            compressor.encode(jax.random.fold_in(key, i), kept, node)
            for i, (kept, node) in enumerate(zip(memory, split(update), strict=True))
        ]
        packets = [packet for _, packet in sent]
        fields = ([getattr(p, f) for p in packets] for f in ("body", "side", "known"))
        return [kept for kept, _ in sent], Packet(*fields)

    def decode(packet, like):
        leaves, structure = jax.tree.flatten(like, is_leaf=is_node)
        parts = zip(packet.body, packet.side, packet.known, leaves, strict=True)
        return structure.unflatten(compressor.decode(Packet(*p), node) for *p, node in parts)

    return Compressor(init, encode, decode)


def scheduled(make: Callable[..., Compressor], schedule: Callable) -> Compressor:
    """`make(schedule(round))` in every round, e.g. a sparsity that grows.

    make: a factory of a traced float32[]; memory and packets must have the same shapes for all
        values (`top_k(fraction, keep=...)` has room for `fraction` and sends `keep`).
    schedule(round) -> float32[], such as `optax.exponential_decay(...)`.
    """
    first = make(jnp.asarray(schedule(0), jnp.float32))

    def at(round, shared):
        return at_round(make(jnp.asarray(schedule(round), jnp.float32)), round, shared)

    return replace(first, at=at)
