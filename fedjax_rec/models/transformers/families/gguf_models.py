"""Decoders as GGUF files have them, by the architecture that the file names.

Names and order are llama.cpp's. Of Llama, Mistral and Granite the rows of W_q and W_k lie in the
order that turns neighbours (2i, 2i + 1), and are put back in the order that turns halves
(i, i + r/2), so that one `rope` serves all; of the others they lie so already. Norms of Gemma have
the 1 of 1 + scale in them, which is taken out. What the rates of Llama 3.1 and of longrope are
divided by stands in tensors of their own. What a file leaves to the program that runs it (which
layers see a window, how Gemma scales scores) is as it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .... import weights
from ..decoder import DecoderSize, Sight
from ..layers import Scores, UnitRMSNorm
from ..rope import Each, Linear, Rope
from .architecture import Architecture, distinct

KERNELS = {
    "query": "attn_q",
    "key": "attn_k",
    "value": "attn_v",
    "output": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}
BEFORE = {"before_attention": "attn_norm", "before_inner": "ffn_norm"}
AFTER = {"after_attention": "post_attention_norm", "after_inner": "post_ffw_norm"}
EACH = {"each_query": "attn_q_norm", "each_key": "attn_k_norm"}
ENDS = {"tokens": "token_embd", "norm": "output_norm", "head": "output"}
LAYER = "blk.{}.{}"
FACTORS, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
HARMLESS = ("context_length", "vocab_size")
FUSED = {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}
BIASED = frozenset(("query", "key", "value"))
TANH = "gelu_pytorch_tanh"


class Fields:
    """Those of the model in a file, without the name of its architecture."""

    def __init__(self, file: weights.Gguf, kind: str):
        self.file, self.kind, self.taken = file, kind, set[str]()

    def __call__(self, name: str, absent: Any = None) -> Any:
        """Raises ValueError where it is needed and not there."""
        self.taken.add(name)
        return self.file.field(f"{self.kind}.{name}", absent)

    def given(self, name: str) -> Any:
        """None where it is not there."""
        self.taken.add(name)
        found = self.file.reader.get_field(f"{self.kind}.{name}")
        return None if found is None else found.contents()

    def done(self, still: Mapping[str, Any]) -> None:
        """still: values at which fields change nothing. Raises ValueError for one that nothing
        took."""
        for name in self.file.reader.fields:
            short = name.removeprefix(f"{self.kind}.")
            if short == name or short in self.taken or short in HARMLESS:
                continue
            value = self.file.field(name)
            if short not in still or value != still[short]:
                raise ValueError(
                    f"{self.file.path} has {name}={value!r}, which is not computed here; give the "
                    "Hugging Face folder of the model."
                )


@dataclass(frozen=True)
class Kind:
    """What files of an architecture have beside widths and numbers.

    norms, biases, fused: as in `Architecture`, of names there. paired: rows of W_q and W_k turn
    neighbours. unit: norms are 1 + scale, and the file has the sum. more: (fields, numbers of the
    size, its angles, the tensors) -> (changes of the size, what each layer sees).
    """

    norms: Mapping[str, str] = field(default_factory=lambda: BEFORE)
    biases: frozenset[str] = frozenset()
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    paired: bool = False
    unit: bool = False
    more: Callable[[Fields, dict[str, Any], Rope, Any], tuple[dict[str, Any], list[Sight]]] = (
        lambda said, size, rope, found: ({}, [Sight(rope)])
    )


def stretched(said: Fields, size, rope: Rope, found) -> tuple[dict[str, Any], list[Sight]]:
    """Llama 3.1's angles, where there are factors."""
    if FACTORS in found:
        rope = replace(rope, scaling=Each(tuple(numbers(found[FACTORS]))))
    return {}, [Sight(rope)]


def numbers(tensor) -> list[float]:
    return np.asarray(tensor.data, np.float64).reshape(-1).tolist()


def granite(said: Fields, size, rope: Rope, found) -> tuple[dict[str, Any], list[Sight]]:
    changes = {
        "embedding": said("embedding_scale", 1.0),
        "residual": said("residual_scale", 1.0),
        "logits": said("logit_scale", 1.0),
        "scores": Scores(said("attention.scale", size["head_width"] ** -0.5)),
    }
    return changes, [Sight(rope)]


def gemma(said: Fields, size, rope: Rope, found) -> tuple[dict[str, Any], list[Sight]]:
    return {"activation": TANH, "embedding": size["width"] ** 0.5}, [Sight(rope)]


def gemma2(said: Fields, size, rope: Rope, found) -> tuple[dict[str, Any], list[Sight]]:
    """Each other layer sees a window, from the first on."""
    near = Sight(rope, said("attention.sliding_window", 4096))
    scores = Scores(scaled(size, 46), said("attn_logit_softcapping", 50.0))
    changes = {"scores": scores, "cap": said("final_logit_softcapping", 30.0)}
    sights = [Sight(rope) if i % 2 else near for i in range(size["layers"])]
    return changes | gemma(said, size, rope, found)[0], sights


def gemma3(said: Fields, size, rope: Rope, found) -> tuple[dict[str, Any], list[Sight]]:
    """Five of six layers see a window, with angles of theta 10,000, which are not stretched."""
    if said("rope.scaling.type", "none") == "linear":
        whole = replace(rope, scaling=Linear(float(said("rope.scaling.factor"))))
    else:
        whole = rope
    near = replace(rope, theta=float(said("rope.freq_base_swa", 10_000.0)))
    local = Sight(near, said("attention.sliding_window"))
    changes = {"scores": Scores(scaled(size, 62)), "cap": said.given("final_logit_softcapping")}
    sights = [local if (i + 1) % 6 else Sight(whole) for i in range(size["layers"])]
    return changes | gemma(said, size, rope, found)[0], sights


def scaled(size: Mapping[str, Any], largest: int) -> float:
    """1 / sqrt(d), and 1 / sqrt(D / H) of the largest of the family, which has so many layers."""
    wide = size["width"] // size["heads"]
    return (wide if size["layers"] == largest else size["head_width"]) ** -0.5


def phi3(said: Fields, size, rope: Rope, found) -> tuple[dict[str, Any], list[Sight]]:
    """Texts up to the length of the first training, for which there are factors of their own."""
    original = said.given("rope.scaling.original_context_length")
    factor = said("rope.scaling.attn_factor", 1.0)
    if SHORT in found:
        scaling = Each(tuple(numbers(found[SHORT])))
        rope = replace(rope, scaling=scaling, size=factor, most=original)
    window = said.given("attention.sliding_window")
    return {}, [Sight(rope, window or None)]


LATER = BEFORE | AFTER
KINDS = {
    "llama": Kind(paired=True, more=stretched),
    "qwen2": Kind(biases=BIASED),
    "qwen3": Kind(norms=BEFORE | EACH),
    "gemma": Kind(unit=True, more=gemma),
    "gemma2": Kind(norms=LATER, unit=True, more=gemma2),
    "gemma3": Kind(norms=LATER | EACH, unit=True, more=gemma3),
    "phi3": Kind(
        fused={"attn_qkv": ("query", "key", "value"), "ffn_up": ("gate", "up")}, more=phi3
    ),
    "olmo2": Kind(norms=AFTER | {"queries": "attn_q_norm", "keys": "attn_k_norm"}),
    "granite": Kind(paired=True, more=granite),
}


def architecture(file: weights.Gguf) -> Architecture:
    """Of the fields of a file.

    Raises ValueError for another architecture, and for a field of the model that is not honoured.
    """
    name = file.field("general.architecture")
    if name not in KINDS:
        raise ValueError(
            f"{file.path} is a {name} model, and of GGUF {', '.join(KINDS)} are read; give its "
            "Hugging Face folder."
        )
    kind, said = KINDS[name], Fields(file, name)
    found = {tensor.name: tensor for tensor in file.reader.tensors}
    heads, width = said("attention.head_count"), said("embedding_length")
    head_width = said("attention.key_length", width // heads)
    turned = said("rope.dimension_count", head_width)
    rope = Rope(float(said("rope.freq_base", 10_000.0)), turned)
    size = {
        "vocabulary": len(file.field("tokenizer.ggml.tokens")),
        "width": width,
        "inner": said("feed_forward_length"),
        "layers": said("block_count"),
        "heads": heads,
        "key_heads": said("attention.head_count_kv", heads),
        "head_width": head_width,
    }
    if turned != head_width and name != "phi3":
        raise ValueError(
            f"{file.path} has {name}.rope.dimension_count={turned}, which is not computed here of "
            f"heads of {head_width}; give the Hugging Face folder of the model."
        )
    changes, sights = kind.more(said, size, rope, found)
    eps = said("attention.layer_norm_rms_epsilon")
    still = {
        "attention.value_length": head_width,
        "rope.scaling.type": "none",
        "attention.causal": True,
    }
    said.done(still)
    made = Architecture(
        DecoderSize(**size, **changes, sights=distinct(sights)),
        tuple(sights) if len(sights) > 1 else (),
        f"{ENDS['head']}.weight" not in found, eps, kind.norms, biases=kind.biases,
        fused=kind.fused, kernels=KERNELS, ends=ENDS, layer=LAYER,
    )  # fmt: skip
    return replace(made, norm=UnitRMSNorm) if kind.unit else made


def fused(made: Architecture) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """`Decoder.fused`, by the names of Hugging Face."""
    return tuple((FUSED[name], parts) for name, parts in made.fused.items())


def tensors(file: weights.Gguf, made: Architecture) -> Iterable[tuple[str, np.ndarray]]:
    """The tensors of a file, with rows of W_q and W_k, and norms, as Hugging Face has them."""
    kind, width = KINDS[file.field("general.architecture")], made.size.head_width
    for name, x in file.tensors():
        if name in (FACTORS, LONG, SHORT):
            continue
        if kind.paired and name.endswith(("attn_q.weight", "attn_k.weight")):
            pairs = x.reshape(-1, width // 2, 2, x.shape[-1])
            x = pairs.swapaxes(1, 2).reshape(x.shape)
        if kind.unit and name.endswith("norm.weight"):
            x = x - 1
        yield name, x
