"""Granite 3 (IBM 2024): Llama, with numbers of the file that scale embedded tokens, scores, what
is added to x, and logits."""

from __future__ import annotations

from ..decoder import DecoderSize, Sight
from ..layers import Scores
from ..settings import Settings
from .architecture import Architecture, activation, biased, epsilon, tied, widths
from .ropes import rope


def architecture(said: Settings) -> Architecture:
    numbers = widths(said)
    size = DecoderSize(
        **numbers,
        activation=activation(said),
        sights=(Sight(rope(said, numbers["head_width"])),),
        scores=Scores(float(said.number("attention_multiplier", 1.0))),
        embedding=float(said.number("embedding_multiplier", 1.0)),
        residual=float(said.number("residual_multiplier", 1.0)),
        logits=float(said.number("logits_scaling", 1.0)),
    )
    return Architecture(size, tied=tied(said), eps=epsilon(said), biases=biased(said))
