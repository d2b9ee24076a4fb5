"""A decoder of the Llama family (Touvron et al. 2023), of which SmolLM2 is a small one.

    x <- x + W_o attention(rope(W_q n(x)), rope(W_k n(x)), W_v n(x)),  n(x) = x / rms(x) * scale
    x <- x + W_down (silu(W_gate n(x)) * W_up n(x)),                   logits = W_head n(x)

Key heads are fewer than query heads (grouped queries, Ainslie et al. 2023). `rope` turns the pair
(i, i + d/2) of each head by the angle t theta^(-2i/d) at place t (Su et al. 2021). A token attends
to itself and what stands before it, so prompts are padded at the end and need no mask of padding.

`L` layers, `T` tokens, `V` vocabulary, `D` width, `F` inner width, `H` heads, `K` key heads, `d`
width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from ...check import at_least
from .layers import Linear, RMSNorm, attention, linear, stacked

# Linear layers of a block: name -> (what goes in, what comes out), as properties of `LlamaSize`.
KERNELS = {
    "query": ("width", "query_width"),
    "key": ("width", "key_width"),
    "value": ("width", "key_width"),
    "output": ("query_width", "width"),
    "gate": ("width", "inner"),
    "up": ("width", "inner"),
    "down": ("inner", "width"),
}


@dataclass(frozen=True)
class LlamaSize:
    """vocabulary V, width D, inner F, layers L, heads H, key_heads K, head_width d.

    theta: base of the rotary angles. eps: of the norms. tied: the head is the token table.
    Raises ValueError where heads are no multiple of key heads, or d is odd.
    """

    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    head_width: int
    theta: float = 10_000.0
    eps: float = 1e-5
    tied: bool = True

    def __post_init__(self):
        for name in ("vocabulary", "width", "inner", "layers", "heads", "key_heads"):
            at_least("LlamaSize", name, getattr(self, name), 1)
        if self.heads % self.key_heads:
            raise ValueError(
                f"LlamaSize(heads={self.heads}, key_heads={self.key_heads}) cannot share keys; "
                "use a multiple of key_heads."
            )
        if self.head_width % 2 or self.head_width < 2:
            raise ValueError(
                f"LlamaSize(head_width={self.head_width}) has no pairs to turn; use an even number."
            )

    @property
    def query_width(self) -> int:
        return self.heads * self.head_width

    @property
    def key_width(self) -> int:
        return self.key_heads * self.head_width


class Block(nnx.Module):
    """The layers of the model, along the leading axis `L` of every variable (see `stacked`).

    kernels: of `KERNELS`, each [L, in, out]; before, after: [L, D], scales of the norms before
    the attention and before the feed-forward half.
    """

    def __init__(self, size: LlamaSize, kernels: dict[str, Linear], before, after):
        self.query, self.key, self.value = (kernels[n] for n in ("query", "key", "value"))
        self.output, self.gate = kernels["output"], kernels["gate"]
        self.up, self.down = kernels["up"], kernels["down"]
        self.before, self.after = RMSNorm(before, size.eps), RMSNorm(after, size.eps)
        self.heads, self.key_heads, self.head_width = size.heads, size.key_heads, size.head_width

    def __call__(self, x, angles, mask):
        """x: [..., T, D]."""
        q, k, v = self.attended(x, angles)
        return self.finish(x, attention(q, k, v, mask))

    def attended(self, x, angles, at=None):
        """q [..., T, H, d], k and v [..., T, K, d] of x [..., T, D], turned; q of the places `at`
        int32[..., n] alone, [..., n, H, d]."""
        y, of_queries = self.before(x), angles
        q = self.query(y if at is None else taken(y, at))
        if at is not None:
            of_queries = tuple(a[at] for a in angles)
        k, v = self.key(y), self.value(y)
        q = q.reshape(*q.shape[:-1], self.heads, self.head_width)
        k, v = (z.reshape(*z.shape[:-1], self.key_heads, self.head_width) for z in (k, v))
        return turned(q, of_queries), turned(k, angles), v

    def finish(self, x, mixed):
        """The layer's output, from its input and what the heads [..., T, H, d] brought together."""
        x = x + self.output(mixed.reshape(*mixed.shape[:-2], -1))
        y = self.after(x)
        return x + self.down(jax.nn.silu(self.gate(y)) * self.up(y))


class Llama(nnx.Module):
    """tokens: [V, D]; layers: `Block`; norm: scale [D]; head: `Linear` [D, V], None where tied.

    remat: gradients keep the input of each layer and compute the rest again.
    """

    def __init__(self, size: LlamaSize, tokens, layers: Block, norm, head: Linear | None = None):
        self.tokens, self.layers = nnx.Param(tokens), layers
        self.norm, self.head = RMSNorm(norm, size.eps), head
        self.size, self.remat = size, False

    def __call__(self, tokens):
        """float32[..., T, V], the logits of the token after each of `tokens` int32[..., T]."""
        return self.logits(self.hidden(tokens))

    def hidden(self, tokens):
        """[..., T, D]: `tokens` int32[..., T] after all layers, before the last norm."""
        return self.through(self.embed(tokens))

    def embed(self, tokens):
        return self.tokens[...][tokens]

    def through(self, x):
        """The layers, from x [..., T, D] of the first T places."""
        places = jnp.arange(x.shape[-2])
        mask = places[:, None] >= places
        return stacked(self.layers, x, angles_at(places, self.size), mask, remat=self.remat)

    def remembering(self, x):
        """(what `through` gives, the keys and values [L, T, K, d] of each layer)."""
        places = jnp.arange(x.shape[-2])
        angles, mask = angles_at(places, self.size), places[:, None] >= places
        structure, variables = nnx.split(self.layers)

        def one(x, variables):
            block = nnx.merge(structure, variables)
            q, k, v = block.attended(x, angles)
            return block.finish(x, attention(q, k, v, mask)), (k, v)

        return jax.lax.scan(one, x, variables)

    def last(self, x, at):
        """[..., D] of x [..., T, D]: what `through` has at the places `at` int32[...]. The last
        layer computes no more than that."""
        places, size = jnp.arange(x.shape[-2]), self.size
        angles, mask = angles_at(places, size), places[:, None] >= places
        if size.layers > 1:
            first = some(self.layers, slice(0, -1))
            x = stacked(first, x, angles, mask, remat=self.remat)
        block, at = some(self.layers, -1), at[..., None]
        q, k, v = block.attended(x, angles, at)
        mixed = attention(q, k, v, at[..., None] >= places)
        return block.finish(taken(x, at), mixed)[..., 0, :]

    def logits(self, x, of=None):
        """float32[..., V] of x [..., D], or of the tokens `of` int32[n] alone [..., n]."""
        y = self.norm(x)
        if self.head is not None and of is None:
            return self.head(y).astype(jnp.float32)
        table = self.tokens[...] if self.head is None else self.head.kernel[...].T
        table = table if of is None else table[of]
        table = table.astype(y.dtype)
        return jnp.einsum("...d,vd->...v", y, table, preferred_element_type=jnp.float32)


def llama(rngs: nnx.Rngs, size: LlamaSize) -> Llama:
    """A decoder of random weights.

    Args:
        rngs: of the weights.
        size: widths and numbers of everything.

    Example:
        >>> size = models.LlamaSize(30, 8, 12, layers=1, heads=2, key_heads=1, head_width=4)
        >>> decoder = models.llama(nnx.Rngs(0), size)
    """
    lead = (size.layers,)

    def kernel(inputs, outputs):
        return linear(rngs, getattr(size, inputs), getattr(size, outputs), False, lead=lead)

    kernels = {name: kernel(*ends) for name, ends in KERNELS.items()}
    ones = jnp.ones((size.layers, size.width))
    tokens = 0.02 * jax.random.normal(rngs.params(), (size.vocabulary, size.width))
    head = None if size.tied else linear(rngs, size.width, size.vocabulary, bias=False)
    return Llama(size, tokens, Block(size, kernels, ones, ones), jnp.ones(size.width), head)


def some(layers: Block, where: slice | int) -> Block:
    """The layers `where`; one of them, which is called as it is, for an int."""
    structure, variables = nnx.split(layers)
    return nnx.merge(structure, jax.tree.map(lambda x: x[where], variables))


def taken(x: jax.Array, at: jax.Array) -> jax.Array:
    """[..., n, D] of x [..., T, D], at the places `at` int32[..., n]."""
    return jnp.take_along_axis(x, at[..., None], -2)


def angles_at(places: jax.Array, size: LlamaSize) -> tuple[jax.Array, jax.Array]:
    """(cos, sin) [..., T, d/2] of the rotary angles at `places` int32[..., T]."""
    rates = size.theta ** (-jnp.arange(0, size.head_width, 2) / size.head_width)
    angles = places[..., None] * rates
    return jnp.cos(angles), jnp.sin(angles)


def turned(x: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    """x [..., T, heads, d] with its pairs (i, i + d/2) turned by `angles`."""
    cos, sin = (a[..., None, :] for a in angles)
    a, b = jnp.split(x.astype(jnp.float32), 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)
