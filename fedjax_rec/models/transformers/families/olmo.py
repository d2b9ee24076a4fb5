"""OLMo 2 (OLMo team 2025): norms of what each half makes and none of what goes in, and norms of the
queries and of the keys of all heads together."""

from __future__ import annotations

from ..decoder import DecoderSize, Sight
from ..settings import Settings
from .architecture import Architecture, activation, biased, epsilon, tied, widths
from .ropes import rope

NORMS = {
    "queries": "self_attn.q_norm",
    "keys": "self_attn.k_norm",
    "after_attention": "post_attention_layernorm",
    "after_inner": "post_feedforward_layernorm",
}


def architecture(said: Settings) -> Architecture:
    numbers = widths(said)
    size = DecoderSize(
        **numbers, activation=activation(said), sights=(Sight(rope(said, numbers["head_width"])),)
    )
    eps = epsilon(said, 1e-5)
    return Architecture(size, tied=tied(said), eps=eps, norms=NORMS, biases=biased(said))
