"""Gemma 1 (Gemma team 2024), 2 (2024) and 3 (2025), of texts.

All: embedded tokens times sqrt(D), norms x / rms(x) (1 + scale), act = gelu, a tied head.
Gemma 2: norms around each half, scores and logits that end at a cap, scores scaled by a number of
the file, and a window in every other layer. Gemma 3: no caps, norms of the queries and keys of
each head, and a window in five of six layers, which have rotary angles of their own; where it is
an encoder (EmbeddingGemma, 2025), both ways.
"""

from __future__ import annotations

from dataclasses import replace

from ..decoder import DecoderSize, Sight
from ..layers import Scores, UnitRMSNorm
from ..rope import Rope
from ..settings import Settings
from .architecture import (
    AROUND,
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
from .ropes import of_kinds, rope

TANH = "gelu_pytorch_tanh"


def gemma(said: Settings) -> Architecture:
    causal(said)
    # Released files say gelu, and mean its approximation, as their code had it.
    act = activation(said, absent=TANH)
    act = TANH if act == "gelu" else act
    said.only("hidden_activation", act)
    numbers = widths(said, num_key_value_heads=16, head_dim=256)
    sights, scale = (Sight(rope(said, numbers["head_width"])),), numbers["width"] ** 0.5
    size = DecoderSize(**numbers, sights=sights, activation=act, embedding=scale)
    return Architecture(
        size, tied=tied(said, True), eps=epsilon(said), norm=UnitRMSNorm, biases=biased(said)
    )


def gemma2(said: Settings) -> Architecture:
    causal(said)
    numbers = widths(said, num_key_value_heads=4, head_dim=256)
    angles, window = rope(said, numbers["head_width"]), said.nullable("sliding_window", 4096)
    kinds = listed(said, "layer_types", numbers["layers"], (FULL, SLIDING))
    kinds = kinds or [FULL if i % 2 else SLIDING for i in range(numbers["layers"])]
    sights = tuple(Sight(angles, window if kind == SLIDING else None) for kind in kinds)
    caps = (
        said.nullable("attn_logit_softcapping", 50.0),
        said.nullable("final_logit_softcapping", 30.0),
    )
    return later(said, numbers, sights, caps, AROUND)


def gemma3(said: Settings) -> Architecture:
    numbers = widths(said, num_key_value_heads=4, head_dim=256)
    window, every = said.nullable("sliding_window", 4096), said.count("sliding_window_pattern", 6)
    both = said.only("use_bidirectional_attention", False, True)
    if both and window is not None:
        window = window // 2 + 1  # the file counts both sides
    said.take("_sliding_window_pattern", None)  # of files that list `layer_types` as well
    kinds = listed(said, "layer_types", numbers["layers"], (FULL, SLIDING))
    kinds = kinds or [SLIDING if (i + 1) % every else FULL for i in range(numbers["layers"])]
    whole, near = two_ropes(said, numbers["head_width"])
    see = {FULL: Sight(whole), SLIDING: Sight(near, window)}
    caps = said.number("attn_logit_softcapping", None), said.number("final_logit_softcapping", None)
    sights = tuple(see[kind] for kind in kinds)
    return replace(later(said, numbers, sights, caps, AROUND | OF_EACH_HEAD), both=both)


def two_ropes(said: Settings, width: int) -> tuple[Rope, Rope]:
    """The angles of layers that see everything, and of those that see a window: one dict of
    `rope_parameters` each, or `rope_theta` with `rope_scaling`, and `rope_local_base_freq`."""
    local = float(said.number("rope_local_base_freq", 10_000.0))
    parameters = said.take("rope_parameters", None) or {}
    if FULL not in parameters and SLIDING not in parameters:
        return rope(said, width, 1_000_000.0), Rope(local, width)
    return of_kinds(said, width, said.number("rope_theta", 1_000_000.0), local)


def later(said: Settings, numbers, sights: tuple[Sight, ...], caps, norms) -> Architecture:
    """What Gemma 2 and 3 have alike."""
    said.only("hidden_act", TANH, "gelu")  # of files that are read by older code
    scale = said.number("query_pre_attn_scalar", 256) ** -0.5
    size = DecoderSize(
        **numbers,
        sights=distinct(sights),
        activation=activation(said, "hidden_activation", TANH),
        scores=Scores(scale, caps[0]),
        embedding=numbers["width"] ** 0.5,
        cap=caps[1],
    )
    return Architecture(
        size, sights, tied(said, True), epsilon(said), norms, UnitRMSNorm, biased(said)
    )


def causal(said: Settings) -> None:
    said.only("use_bidirectional_attention", False)
