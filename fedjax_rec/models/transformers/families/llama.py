"""Llama 1 to 3.2 (Touvron et al. 2023; Llama team 2024), and decoders of random weights.

    n(x) = x / rms(x) * scale before each half, act = silu, and the rotary angles of `rope`

with angles of Llama 3.1 stretched by wave (`rope.Llama3`). SmolLM2 is one of it. The block is that
of `decoder`.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from ....check import at_least
from ..decoder import KERNELS, NORMS, Block, Decoder, DecoderSize, Sight
from ..layers import RMSNorm, linear
from ..rope import Rope
from ..settings import Settings
from .architecture import BEFORE, Architecture, activation, biased, epsilon, tied, widths
from .ropes import rope


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
        at_least("LlamaSize", "head_width", self.head_width, 2)
        self.decoder()

    def decoder(self) -> DecoderSize:
        """The same of any decoder."""
        return DecoderSize(
            self.vocabulary, self.width, self.inner, self.layers, self.heads, self.key_heads,
            self.head_width, (Sight(Rope(self.theta, self.head_width)),),
        )  # fmt: skip


def llama(rngs: nnx.Rngs, size: LlamaSize) -> Decoder:
    """A decoder of random weights.

    Args:
        rngs: of the weights.
        size: widths and numbers of everything.

    Example:
        >>> size = models.LlamaSize(30, 8, 12, layers=1, heads=2, key_heads=1, head_width=4)
        >>> decoder = models.llama(nnx.Rngs(0), size)
    """
    lead, sizes = (size.layers,), size.decoder()

    def kernel(inputs, outputs):
        return linear(rngs, getattr(sizes, inputs), getattr(sizes, outputs), False, lead=lead)

    kernels = {name: kernel(*ends) for name, ends in KERNELS.items()}
    ones = lambda name: jnp.ones((*lead, getattr(sizes, NORMS[name])))
    norms = {name: RMSNorm(ones(name), size.eps) for name in BEFORE}
    tokens = 0.02 * jax.random.normal(rngs.params(), (size.vocabulary, size.width))
    head = None if size.tied else linear(rngs, size.width, size.vocabulary, bias=False)
    last = RMSNorm(jnp.ones(size.width), size.eps)
    return Decoder(sizes, tokens, Block(sizes, kernels, norms), last, head)


def architecture(said: Settings) -> Architecture:
    numbers = widths(said)
    said.only("rope_interleaved", False)
    sight = Sight(rope(said, numbers["head_width"]))
    size = DecoderSize(**numbers, activation=activation(said), sights=(sight,))
    return Architecture(size, tied=tied(said), eps=epsilon(said), biases=biased(said))
