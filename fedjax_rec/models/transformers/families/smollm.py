"""SmolLM3 (Hugging Face 2025): Llama, with layers that do not know places (Yang et al. 2025, NoPE).

Every fourth layer has no rotary angles.
"""

from __future__ import annotations

from ..decoder import DecoderSize, Sight
from ..settings import Settings
from .architecture import (
    FULL,
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


def architecture(said: Settings) -> Architecture:
    numbers = widths(said, num_key_value_heads=4)
    layers, angles = numbers["layers"], rope(said, numbers["head_width"], 2_000_000.0)
    every = said.count("no_rope_layer_interval", 4)
    turns = listed(said, "no_rope_layers", layers, (0, 1))  # one where there is a rope
    turns = turns or [int((i + 1) % every != 0) for i in range(layers)]
    said.take("max_window_layers", None)  # written, and read by no code
    slides, window = (
        said.only("use_sliding_window", False, True),
        said.number("sliding_window", None),
    )
    slides = slides and window is not None
    kinds = listed(said, "layer_types", layers, (FULL, SLIDING))
    kinds = kinds or [SLIDING if slides and not turn else FULL for turn in turns]
    if SLIDING in kinds and not slides:
        said.refuse("layer_types", "use full_attention, or use_sliding_window")
    sights = tuple(
        Sight(angles if turn else None, window if kind == SLIDING else None)
        for turn, kind in zip(turns, kinds, strict=True)
    )
    size = DecoderSize(**numbers, activation=activation(said), sights=distinct(sights))
    return Architecture(size, sights, tied(said, True), epsilon(said), biases=biased(said))
