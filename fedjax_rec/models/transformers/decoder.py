"""The decoder that all families here are: attention to what stands before, and a gated half.

    x <- x + m n_2(W_o attention(rope(n_q(W_q n_1(x))), rope(n_k(W_k n_1(x))), W_v n_1(x)))
    x <- x + m n_4(W_down (act(W_gate n_3(x)) * W_up n_3(x)))
    logits = cap(W_head n(x) / c)

Key heads are fewer than query heads (grouped queries, Ainslie et al. 2023). Which of the norms
there are, and of which kind, is what families differ in, with the activation, biases, the numbers
m, c and cap, and what each layer sees: a `Sight`. Layers are one stack whatever they see: it is
computed once for each kind of layer, and a layer takes the one of its kind.

A token attends to itself and what stands before it, so prompts are padded at the end and need no
mask of padding.

`L` layers, `T` tokens, `V` vocabulary, `D` width, `F` inner width, `H` heads, `K` key heads, `d`
width of a head, `N` kinds of layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ...check import at_least, one_of
from ..roles import Frozen
from .by_heads import everyone, long, refuse_together, spread
from .layers import (
    Linear,
    RMSNorm,
    Scores,
    UnitRMSNorm,
    attention,
    attention_after,
    capped,
    scanned,
    stacked,
)
from .products import EVERY, times_rows
from .rope import Rope, turned

# Linear layers of a block: name -> (what goes in, what comes out), as properties of `DecoderSize`.
KERNELS = {
    "query": ("width", "query_width"),
    "key": ("width", "key_width"),
    "value": ("width", "key_width"),
    "output": ("query_width", "width"),
    "gate": ("width", "inner"),
    "up": ("width", "inner"),
    "down": ("inner", "width"),
}
# Norms that a block may have, in the order in which they are met, and how wide they are.
NORMS = {
    "before_attention": "width",
    "queries": "query_width",  # of all heads together
    "keys": "key_width",
    "each_query": "head_width",  # of each head
    "each_key": "head_width",
    "after_attention": "width",
    "before_inner": "width",
    "after_inner": "width",
}
ACTIVATIONS: dict[str, Callable] = {
    "silu": jax.nn.silu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "relu": jax.nn.relu,
}
Norm = RMSNorm | UnitRMSNorm


@dataclass(frozen=True)
class Sight:
    """What a layer sees. rope: None where it does not know places. window: a token attends to
    itself and the window - 1 before it; None for all before it. Raises ValueError for window < 1.
    """

    rope: Rope | None
    window: int | None = None

    def __post_init__(self):
        at_least("Sight", "window", 1 if self.window is None else self.window, 1)


@dataclass(frozen=True)
class DecoderSize:
    """vocabulary V, width D, inner F, layers L, heads H, key_heads K, head_width d.

    sights: of each kind of layer. activation: one of `ACTIVATIONS`. scores: None for q k^T /
    sqrt(d). embedding: what embedded tokens are multiplied by; residual: what is added to x, m;
    logits: what they are divided by, c; cap: of the logits.
    Raises ValueError where heads are no multiple of key heads, or d is odd.
    """

    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    head_width: int
    sights: tuple[Sight, ...]
    activation: str = "silu"
    scores: Scores | None = None
    embedding: float = 1.0
    residual: float = 1.0
    logits: float = 1.0
    cap: float | None = None

    def __post_init__(self):
        for name in ("vocabulary", "width", "inner", "layers", "heads", "key_heads"):
            at_least("DecoderSize", name, getattr(self, name), 1)
        one_of("DecoderSize", "activation", self.activation, ACTIVATIONS)
        if self.heads % self.key_heads:
            raise ValueError(
                f"DecoderSize(heads={self.heads}, key_heads={self.key_heads}) cannot share keys; "
                "use a multiple of key_heads."
            )
        if self.head_width % 2 or self.head_width < 2:
            raise ValueError(
                f"DecoderSize(head_width={self.head_width}) has no pairs to turn; use an even "
                "number."
            )

    @property
    def query_width(self) -> int:
        return self.heads * self.head_width

    @property
    def key_width(self) -> int:
        return self.key_heads * self.head_width


class Block(nnx.Module):
    """The layers of the model, along the leading axis `L` of every variable (see `stacked`).

    kernels: of `KERNELS`, each [L, in, out]; norms: some of `NORMS`, by name; kind: int32[L], the
    sight of each layer among those of `size`, None where there is one.
    """

    def __init__(
        self, size: DecoderSize, kernels: Mapping[str, Linear], norms: Mapping[str, Norm], kind=None
    ):
        # Any: `models.lora` puts its own layers in their place.
        self.query: Any = kernels["query"]
        self.key: Any = kernels["key"]
        self.value: Any = kernels["value"]
        self.output: Any = kernels["output"]
        self.gate: Any = kernels["gate"]
        self.up: Any = kernels["up"]
        self.down: Any = kernels["down"]
        self.before_attention, self.after_attention = (
            norms.get(f"{side}_attention") for side in ("before", "after")
        )
        self.before_inner, self.after_inner = (
            norms.get(f"{side}_inner") for side in ("before", "after")
        )
        self.queries, self.keys = norms.get("queries"), norms.get("keys")
        self.each_query, self.each_key = norms.get("each_query"), norms.get("each_key")
        self.kind = None if kind is None else Frozen(jnp.asarray(kind, jnp.int32))
        self.size = size

    def __call__(self, x, seen, read=None):
        """x: [..., T, D]; seen: (angles, mask) of all kinds of layers, with the mask of what was
        read before, where `read` has its (keys, values) [P, K, d] in this layer."""
        angles, *masks = self.own(seen)
        q, k, v = self.attended(x, angles)
        return self.finish(x, self.mixed(q, k, v, masks, read))

    def mixed(self, q, k, v, masks, read=None):
        """[..., T, H, d]: what the heads bring together, by masks [..., T, S] and [..., T, P]."""
        scores, masks = self.size.scores, everyone(self.query.kernel, masks, q.ndim - 1)
        if read is None:
            return attention(q, k, v, masks[0], scores)
        own, reached = masks
        if read[0].ndim > 3:  # of all devices' clients
            read = [long(x, q.ndim) for x in read]
        return attention_after(q, (k, v, own), (*read, reached), scores)

    def own(self, seen):
        """What this layer sees of arrays [N, ...] of all kinds of layers, which are [...] where
        there is one kind."""
        if self.kind is None:
            return seen
        kind = self.kind[...]
        return jax.tree.map(lambda x: x[kind], seen)

    def attended(self, x, angles, at=None):
        """q [..., T, H, d], k and v [..., T, K, d] of x [..., T, D], turned by its own `angles`; q
        of the places `at` int32[..., n] alone, [..., n, H, d]. Where the weights lie by heads,
        these are of this device's heads and the clients of all, with a leading axis."""
        kernel, counts = self.query.kernel, self.divided()
        refuse_together(kernel, queries=self.queries, keys=self.keys)
        y, of_queries = normed(self.before_attention, x), angles
        z = None if at is None else spread(kernel, taken(y, at), **counts)
        y = spread(kernel, y, **counts)
        q = normed(self.queries, self.query(y if z is None else z))
        if at is not None:
            cos, sin = (a[at] if a.ndim == 2 else taken(a, at) for a in angles)
            of_queries = cos, sin
        k, v = normed(self.keys, self.key(y)), self.value(y)
        heads = lambda z: z.reshape(*z.shape[:-1], -1, self.size.head_width)
        q, k = normed(self.each_query, heads(q)), normed(self.each_key, heads(k))
        of_queries, angles = everyone(kernel, (of_queries, angles), q.ndim - 1)
        return turned(q, of_queries), turned(k, angles), heads(v)

    def divided(self) -> dict[str, int]:
        """What devices divide among each other where they work by heads, by name."""
        return {"heads": self.size.heads, "key heads": self.size.key_heads}

    def finish(self, x, mixed):
        """The layer's output, from its input and what the heads [..., T, H, d] brought together."""
        made = self.output(mixed.reshape(*mixed.shape[:-2], -1))
        x = x + self.size.residual * normed(self.after_attention, made)
        y = spread(self.gate.kernel, normed(self.before_inner, x))
        made = self.down(ACTIVATIONS[self.size.activation](self.gate(y)) * self.up(y))
        return x + self.size.residual * normed(self.after_inner, made)


class Decoder(nnx.Module):
    """tokens: [V, D]; layers: `Block`; norm: the last; head: `Linear` [D, V], None where tied.

    remat: gradients keep the input of each layer and compute the rest again. fused: (a tensor of a
    layer in its folder, our linear layers that lie in it), for whoever reads more of the kind.
    """

    fused: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def __init__(
        self, size: DecoderSize, tokens, layers: Block, norm: Norm, head: Linear | None = None
    ):
        self.tokens, self.layers = nnx.Param(tokens), layers
        self.norm, self.head = norm, head
        self.size, self.remat = size, False

    def __call__(self, tokens):
        """float32[..., T, V], the logits of the token after each of `tokens` int32[..., T]."""
        return self.logits(self.hidden(tokens))

    def hidden(self, tokens):
        """[..., T, D]: `tokens` int32[..., T] after all layers, before the last norm."""
        return self.through(self.embed(tokens))

    def embed(self, tokens):
        table = self.tokens[...]
        return table[tokens] * jnp.asarray(self.size.embedding, table.dtype)

    def through(self, x):
        """The layers, from x [..., T, D] of the first T places."""
        places = jnp.arange(x.shape[-2])
        return stacked(self.layers, x, seen(self.size, places, places), remat=self.remat)

    def remembering(self, x):
        """(what `through` gives, the keys and values [L, T, K, d] of each layer)."""
        places = jnp.arange(x.shape[-2])
        everything = seen(self.size, places, places)

        def one(block, x, _):
            angles, mask = block.own(everything)
            q, k, v = block.attended(x, angles)
            return block.finish(x, block.mixed(q, k, v, (mask,))), (k, v)

        return scanned(self.layers, one, x, remat=self.remat)

    def logits(self, x, of=None):
        """float32[..., V] of x [..., D], or of the tokens `of` int32[n] alone [..., n]."""
        y = self.norm(x)
        if self.head is not None:
            made = self.head(y, EVERY if of is None else of).astype(jnp.float32)
        else:
            table = self.tokens[...] if of is None else self.tokens[...][of]
            made = times_rows(y, table)
        return capped(made / self.size.logits, self.size.cap)


def normed(norm: Norm | None, x: jax.Array) -> jax.Array:
    return x if norm is None else norm(x)


def some(layers: Block, where: slice | int) -> Block:
    """The layers `where`; one of them, which is called as it is, for an int."""
    structure, random, variables = nnx.split(layers, nnx.RngState, ...)
    return nnx.merge(structure, random, jax.tree.map(lambda x: x[where], variables))


def taken(x: jax.Array, at: jax.Array) -> jax.Array:
    """[..., n, D] of x [..., T, D], at the places `at` int32[..., n]."""
    return jnp.take_along_axis(x, at[..., None], -2)


def seen(size: DecoderSize, places: jax.Array, among: jax.Array, total: int | None = None):
    """((cos, sin) [..., T, r/2], mask bool[..., T, S]): what tokens at `places` int32[..., T] see
    of those at `among` int32[..., S], with a leading axis `N` where layers are of several kinds.

    total: tokens of the whole text, default S. Raises ValueError where it is longer than the rates
    of its rotary angles hold.
    """
    ropes = [sight.rope for sight in size.sights if sight.rope is not None]
    total = among.shape[-1] if total is None else total
    for most in (rope.most for rope in ropes if rope.most is not None and total > rope.most):
        raise ValueError(
            f"a text of {total} tokens is longer than {most}, up to which the rotary angles of "
            "this decoder are known; use shorter ones."
        )
    pairs = (ropes[0].width if ropes else size.head_width) // 2
    still = jnp.ones((*places.shape, pairs)), jnp.zeros((*places.shape, pairs))

    def of(sight: Sight):
        angles = still if sight.rope is None else sight.rope.angles(places)
        ago = places[..., :, None] - among[..., None, :]
        mask = ago >= 0
        return angles, mask if sight.window is None else mask & (ago < sight.window)

    each = [of(sight) for sight in size.sights]
    return each[0] if len(each) == 1 else jax.tree.map(lambda *x: jnp.stack(x), *each)
