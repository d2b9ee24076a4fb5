"""How compressors are made of one another.

- `identity()`         the update as it is
- `chain(a, b)`        b compresses what a left in the body of its packet
- `partition(rules)`   each part of a model its own way, by role or by path
- `per_leaf(a)`        a on every leaf by itself, where a looks at the whole update
- `scheduled(make, schedule)`   a compressor whose parameter depends on the round

A compressor maps an update to a packet and back. What ships is the packet, and its bytes are
counted by `wire.nbytes`, so a compressor never reports a size of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import trees
from ..made import refuse_uncalled
from ..types import Compressor, Now, Packet
from ..wire import Raw, flatten, is_node, nodes
from .leafwise import largest
from .remembered import remembers_updates

# Of which memory is made: packets have the same shapes in all rounds.
FIRST = Now(0, ())


def identity() -> Compressor:
    """Sends the update as it is: touched rows and dense leaves at full precision.

    Returns:
        A lossless, linear `Compressor` without memory.

    Example:
        >>> strategy = strategies.fedavg(model, data.pointwise(4), downlink=compress.identity())
    """

    def encode(key, memory, update, now):
        return memory, Packet(update)

    decode = lambda packet, like, now: packet.body
    return Compressor(lambda update: (), encode, decode, True, takes_raw=True)


def chain(first: Compressor, second: Compressor, *more: Compressor) -> Compressor:
    """Compresses with each stage the body of the packet of the one before.

    Sides of all stages are sent. Unbiased where all stages are; their errors compound,
    1 + omega = prod_i (1 + omega_i). Linear where all stages are. Error memory belongs around a
    chain, not inside.

    Args:
        first: the stage that gets the update.
        second: the stage that gets the body of the first.
        more: those that follow.

    Returns:
        A `Compressor` whose memory has one entry a stage.

    Raises:
        ValueError: when memory is made, where a stage after the first remembers updates.

    Example:
        >>> from fedjax_rec import compress
        >>> few_levels = compress.chain(compress.rotate(), compress.stochastic_uniform(4))
    """
    stages = (first, second, *more)
    for name, stage in zip(("first", "second", *["more"] * len(more)), stages, strict=True):
        refuse_uncalled("chain", name, stage)

    def given(update, now) -> list:
        """What every stage gets: the update, then bodies of zeros."""
        seen = [update]
        for stage in stages[:-1]:
            encode = lambda key, x, stage=stage: stage.encode(key, stage.init(x), x, now)
            packet = jax.eval_shape(encode, jax.random.key(0), seen[-1])[1]
            seen.append(trees.zeros_like(packet.body))
        return seen

    def init(update):
        memories = [stage.init(x) for stage, x in zip(stages, given(update, FIRST), strict=True)]
        if any(remembers_updates(memory) for memory in memories[1:]):
            raise ValueError(
                "chain(...): a stage after the first has error memory, but what it gets differs "
                "from round to round; put error_feedback around the whole chain."
            )
        return memories

    def encode(key, memory, update, now):
        memories, sides, known, body = [], [], [], update
        for i, (stage, kept) in enumerate(zip(stages, memory, strict=True)):
            kept, packet = stage.encode(jax.random.fold_in(key, i), kept, body, now)
            body = packet.body
            memories.append(kept)
            sides.append(packet.side)
            known.append(packet.known)
        return memories, Packet(body, sides, known)

    def decode(packet, like, now):
        body = packet.body
        parts = zip(stages, packet.side, packet.known, given(like, now), strict=True)
        for stage, side, known, x in reversed(list(parts)):
            body = stage.decode(Packet(body, side, known), x, now)
        return body

    def omega(update):
        each = zip(stages, given(update, FIRST), strict=True)
        claims = [stage.omega(x) for stage, x in each if stage.omega is not None]
        known = [claim for claim in claims if claim is not None]
        return math.prod(1 + claim for claim in known) - 1 if known else None

    def complaint(packet, like, now):
        body = packet.body
        parts = zip(stages, packet.side, packet.known, given(like, now), strict=True)
        for stage, side, known, x in reversed(list(parts)):
            sent = Packet(body, side, known)
            if told := stage.complaint and stage.complaint(sent, x, now):
                return told
            body = stage.decode(sent, x, now)
        return None

    linear, raw = (all(getattr(s, x) for s in stages) for x in ("linear", "takes_raw"))
    return Compressor(init, encode, decode, linear, omega, complaint, raw)


def partition(rules: Mapping[str, Compressor]) -> Compressor:
    """Compresses each part of a model its own way. Linear where all parts are.

    Args:
        rules: what a part is called -> its compressor. `rows` are all tables, `dense` all other
            leaves, anything else a regular expression that must match a leaf's whole path, such as
            `item` or `layers/0/kernel`. The first rule that fits counts; what none fits is sent as
            it is.

    Returns:
        A `Compressor` whose memory has one entry a rule.

    Raises:
        ValueError: for no rules, for one that is no regular expression and, when memory is made,
            for one that nothing of the model is left for.

    Example:
        >>> from fedjax_rec import compress
        >>> parts = compress.partition({"rows": compress.eden(4), "layers/.*": compress.cast()})
    """
    refuse_uncalled("partition", "rules", rules)
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
    names, parts = tuple(rules), tuple(rules.values())

    def divided(update):
        """The nodes of every rule, and those of none, each as {path: node}."""
        found: list[dict] = [{} for _ in range(len(names) + 1)]
        paths, _ = flatten(update)
        for path, node in paths:
            called = jax.tree_util.keystr(path, simple=True, separator="/")
            inner = node.values if isinstance(node, Raw) else node
            role = "rows" if is_node(inner) else "dense"
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
        paths, structure = flatten(like)
        named = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
        return structure.unflatten(everything[name] for name in named)

    def init(update):
        return [part.init(held) for part, held in zip(parts, divided(update), strict=False)]

    def encode(key, memory, update, now):
        *mine, rest = divided(update)
        sent = [
            part.encode(jax.random.fold_in(key, i), kept, held, now)
            for i, (part, kept, held) in enumerate(zip(parts, memory, mine, strict=True))
        ]
        packets = [packet for _, packet in sent]
        body = [*(p.body for p in packets), rest]
        packet = Packet(body, [p.side for p in packets], [p.known for p in packets])
        return [kept for kept, _ in sent], packet

    def decode(packet, like, now):
        found = divided(like)
        back = [
            part.decode(Packet(body, side, known), held, now)
            for part, body, side, known, held in zip(
                parts, packet.body, packet.side, packet.known, found, strict=False
            )
        ]
        return joined([*back, packet.body[-1]], like)

    def omega(update):
        held = zip(parts, divided(update), strict=False)
        return largest(part.omega(mine) for part, mine in held if part.omega is not None)

    def complaint(packet, like, now):
        held = zip(parts, packet.body, packet.side, packet.known, divided(like), strict=False)
        told = (
            part.complaint(Packet(*sent), mine, now) for part, *sent, mine in held if part.complaint
        )
        return next(filter(None, told), None)

    linear, raw = (all(getattr(p, x) for p in parts) for x in ("linear", "takes_raw"))
    return Compressor(init, encode, decode, linear, omega, complaint, raw)


def per_leaf(compressor: Compressor) -> Compressor:
    """Applies `compressor` to each node by itself: `per_leaf(global_top_k(0.01))` is `top_k(0.01)`.

    Args:
        compressor: one that looks at a whole update. A leaf has no path there, so `partition` and
            `masked` belong outside.

    Returns:
        A `Compressor` whose memory has one entry a node; linear where `compressor` is.

    Example:
        >>> uplink = compress.per_leaf(compress.global_top_k(0.01))
    """
    refuse_uncalled("per_leaf", "compressor", compressor)

    def init(update):
        return [compressor.init(node) for node in nodes(update)]

    def encode(key, memory, update, now):
        sent = [
            compressor.encode(jax.random.fold_in(key, i), kept, node, now)
            for i, (kept, node) in enumerate(zip(memory, nodes(update), strict=True))
        ]
        packets = [packet for _, packet in sent]
        fields = ([getattr(p, f) for p in packets] for f in ("body", "side", "known"))
        return [kept for kept, _ in sent], Packet(*fields)

    def decode(packet, like, now):
        leaves, structure = flatten(like)
        parts = zip(packet.body, packet.side, packet.known, leaves, strict=True)
        return structure.unflatten(
            compressor.decode(Packet(*p), node, now) for *p, (_, node) in parts
        )

    claim, told = compressor.omega, compressor.complaint
    omega = claim and (lambda update: largest(map(claim, nodes(update))))

    def complaint(packet, like, now):
        parts = zip(packet.body, packet.side, packet.known, nodes(like), strict=True)
        said = (told(Packet(*sent), node, now) for *sent, node in parts) if told else ()
        return next(filter(None, said), None)

    return replace(
        compressor, init=init, encode=encode, decode=decode, omega=omega,
        complaint=told and complaint,
    )  # fmt: skip


def scheduled(make: Callable[..., Compressor], schedule: Callable) -> Compressor:
    """Compresses with `make(schedule(round))` in every round, such as a sparsity that grows.

    Args:
        make: a factory of a traced float32[]; memory and packets must have the same shapes for all
            values (`top_k(fraction, keep=...)` has room for `fraction` and sends `keep`).
        schedule: schedule(round) -> float32[], such as `optax.exponential_decay(...)`.

    Returns:
        A `Compressor` with the memory of `make(schedule(0))`, compiled once for all rounds.

    Example:
        >>> import optax
        >>> from fedjax_rec import compress
        >>> falling = optax.exponential_decay(0.25, 100, 0.1)
        >>> sparser = compress.scheduled(lambda keep: compress.top_k(0.25, keep), falling)
    """

    def of(round) -> Compressor:
        return make(jnp.asarray(schedule(round), jnp.float32))

    def encode(key, memory, update, now):
        return of(now.round).encode(key, memory, update, now)

    def decode(packet, like, now):
        return of(now.round).decode(packet, like, now)

    first = of(0)

    def complaint(packet, like, now):
        told = of(now.round).complaint
        return told and told(packet, like, now)

    return replace(first, encode=encode, decode=decode, complaint=first.complaint and complaint)
