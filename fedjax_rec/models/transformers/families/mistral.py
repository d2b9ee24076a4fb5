"""Mistral 7B and its like (Jiang et al. 2023): Llama, with attention to a window of tokens."""

from __future__ import annotations

from ..decoder import DecoderSize, Sight
from ..settings import Settings
from .architecture import Architecture, activation, epsilon, tied, widths
from .ropes import rope


def architecture(said: Settings) -> Architecture:
    numbers = widths(said, num_key_value_heads=8)
    sight = Sight(rope(said, numbers["head_width"]), said.nullable("sliding_window", 4096))
    size = DecoderSize(**numbers, sights=(sight,), activation=activation(said))
    return Architecture(size, tied=tied(said), eps=epsilon(said))
