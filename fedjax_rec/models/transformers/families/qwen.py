"""Qwen2, Qwen2.5 (Qwen team 2024) and Qwen3 (2025).

Qwen2 is Llama with biases at query, key and value; Qwen3 has none, and norms of the queries and
keys of each head in their place. Upper layers may see a window of tokens alone.
"""

from __future__ import annotations

from typing import Any

from ..decoder import DecoderSize, Sight
from ..settings import Settings
from .architecture import (
    BEFORE,
    FULL,
    OF_EACH_HEAD,
    SLIDING,
    Architecture,
    activation,
    biased,
    distinct,
    epsilon,
    listed,
    tied,
    widths,
)
from .ropes import rope


def sighted(said: Settings, numbers: dict[str, Any]) -> tuple[Sight, ...]:
    """What each layer sees: with `use_sliding_window` those of `layer_types` sliding_attention,
    default those from `max_window_layers` up, see a window."""
    layers, angles = numbers["layers"], rope(said, numbers["head_width"])
    window, lowest = said.nullable("sliding_window", 4096), said.number("max_window_layers", 28)
    kinds = listed(said, "layer_types", layers, (FULL, SLIDING))
    if not said.only("use_sliding_window", False, True):
        if kinds and SLIDING in kinds:
            said.refuse("layer_types", "use full_attention, or use_sliding_window")
        return (Sight(angles),) * layers
    kinds = kinds or [SLIDING if i >= lowest else FULL for i in range(layers)]
    return tuple(Sight(angles, window if kind == SLIDING else None) for kind in kinds)


def qwen2(said: Settings) -> Architecture:
    numbers = widths(said, num_key_value_heads=32)
    said.only("use_mrope", False)
    sights = sighted(said, numbers)
    size = DecoderSize(**numbers, activation=activation(said), sights=distinct(sights))
    biases = frozenset(("query", "key", "value"))
    return Architecture(size, sights, tied(said), epsilon(said), biases=biases)


def qwen3(said: Settings) -> Architecture:
    numbers = widths(said, num_key_value_heads=32, head_dim=128)
    sights = sighted(said, numbers)
    size = DecoderSize(**numbers, activation=activation(said), sights=distinct(sights))
    norms = BEFORE | OF_EACH_HEAD
    return Architecture(size, sights, tied(said), epsilon(said), norms, biases=biased(said))
