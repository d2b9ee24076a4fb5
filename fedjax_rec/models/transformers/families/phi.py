"""Phi-3, Phi-3.5 and Phi-4 (Abdin et al. 2024): Llama, stored with query, key and value in one
tensor, and gate and up in another, which are read apart, so that adapters find each.

Texts may be longer than those of its first training by factors of the rotary angles (longrope);
they hold the short ones here, and longer texts are refused.
"""

from __future__ import annotations

from ..decoder import DecoderSize, Sight
from ..settings import Settings
from .architecture import Architecture, activation, epsilon, tied, widths
from .ropes import rope

FUSED = {
    "self_attn.qkv_proj": ("query", "key", "value"),
    "mlp.gate_up_proj": ("gate", "up"),
}


def architecture(said: Settings) -> Architecture:
    numbers = widths(said)
    for name in ("attention_bias", "mlp_bias", "lm_head_bias"):
        said.only(name, False)
    for name in ("full_attn_mod", "interpolate_factor"):  # read by no code, one in Phi-4-mini
        said.only(name, 1)
    kinds = ("default", "longrope")
    angles = rope(said, numbers["head_width"], types=kinds, original=4096)
    sight = Sight(angles, said.number("sliding_window", None))
    size = DecoderSize(**numbers, activation=activation(said), sights=(sight,))
    return Architecture(size, tied=tied(said), eps=epsilon(said, 1e-5), fused=FUSED)
