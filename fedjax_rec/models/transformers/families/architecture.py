"""What a family is made of, and the part of its config.json that all families write alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..decoder import ACTIVATIONS, DecoderSize, Norm, Sight
from ..layers import RMSNorm
from ..settings import Settings

# Our name of a linear layer -> its name in a Hugging Face folder.
KERNEL_NAMES = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
# Norms before each half of a layer, as Llama has them, and around each, as Gemma 2 has them.
BEFORE = {"before_attention": "input_layernorm", "before_inner": "post_attention_layernorm"}
AROUND = {
    "before_attention": "input_layernorm",
    "after_attention": "post_attention_layernorm",
    "before_inner": "pre_feedforward_layernorm",
    "after_inner": "post_feedforward_layernorm",
}
OF_EACH_HEAD = {"each_query": "self_attn.q_norm", "each_key": "self_attn.k_norm"}
ENDS = {"tokens": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class Architecture:
    """size: numbers of everything. sights: of each layer, L of them, or none where all have the
    one of `size`. tied: the head is the token table. eps: of the norms. both: tokens see those
    behind them too, so that it is an encoder.

    norms: {one of `decoder.NORMS`: its name in a layer}; norm: their kind. biases: the linear
    layers that have one. fused: {a tensor of a layer: our linear layers that lie in it, one after
    another}. kernels, ends, layer: names of the rest.
    """

    size: DecoderSize
    sights: tuple[Sight, ...] = ()
    tied: bool = False
    eps: float = 1e-6
    norms: Mapping[str, str] = field(default_factory=lambda: BEFORE)
    norm: type[Norm] = RMSNorm
    biases: frozenset[str] = frozenset()
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    kernels: Mapping[str, str] = field(default_factory=lambda: KERNEL_NAMES)
    ends: Mapping[str, str] = field(default_factory=lambda: ENDS)
    layer: str = "model.layers.{}.{}"
    both: bool = False

    def kinds(self) -> tuple[int, ...] | None:
        """The sight of each layer, by its place in `size`; None where there is one."""
        if len(self.size.sights) == 1:
            return None
        return tuple(self.size.sights.index(sight) for sight in self.sights)


def distinct(sights: Iterable[Sight]) -> tuple[Sight, ...]:
    """The kinds of layers of the `sights` of layers, in their order."""
    return tuple(dict.fromkeys(sights))


def widths(said: Settings, **absent: Any) -> dict[str, Any]:
    """The widths and numbers of a `DecoderSize`.

    absent: what keys are where the file has none, else as in Llama.
    """
    width, heads = said.count("hidden_size"), said.count("num_attention_heads")
    head_width = said.count("head_dim", absent.get("head_dim"))
    return {
        "vocabulary": said.count("vocab_size"),
        "width": width,
        "inner": said.count("intermediate_size"),
        "layers": said.count("num_hidden_layers"),
        "heads": heads,
        "key_heads": said.count("num_key_value_heads", absent.get("num_key_value_heads", heads)),
        "head_width": width // heads if head_width is None else head_width,
    }


def activation(said: Settings, name: str = "hidden_act", absent: str = "silu") -> str:
    """The activation of the gate, by the key `name`."""
    return said.only(name, absent, *ACTIVATIONS)


def epsilon(said: Settings, absent: float = 1e-6) -> float:
    return float(said.number("rms_norm_eps", absent))


def tied(said: Settings, absent: bool = False) -> bool:
    return bool(said.take("tie_word_embeddings", absent))


def biased(said: Settings) -> frozenset[str]:
    """The linear layers that have a bias by `attention_bias` and `mlp_bias`."""
    attention = said.only("attention_bias", False, True)
    inner = said.only("mlp_bias", False, True)
    found = ("query", "key", "value", "output") * attention + ("gate", "up", "down") * inner
    return frozenset(found)


def listed(said: Settings, name: str, layers: int, values: Iterable[Any]) -> list | None:
    """A list of one of `values` a layer; None where there is none.

    Raises ValueError for another length or another value.
    """
    found, values = said.take(name, None), list(values)
    if found is None:
        return None
    if not isinstance(found, list) or len(found) < layers or any(x not in values for x in found):
        said.refuse(name, f"use a model with one of {', '.join(map(repr, values))} for each layer")
    return found[:layers]
