"""Llama as a GGUF file has it, such as SmolLM2 of `weights.find("smollm2")`.

GGUF keeps the rows of W_q and W_k in the order that turns neighbours (2i, 2i + 1); they are put
back in the order that turns halves (i, i + d/2), so that one `rope` serves both. What the rates of
Llama 3.1 are divided by stands in a tensor of its own.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .... import weights
from ..decoder import DecoderSize, Sight
from ..rope import Each, Rope
from .architecture import Architecture

KERNELS = {
    "query": "attn_q",
    "key": "attn_k",
    "value": "attn_v",
    "output": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}
NORMS = {"before_attention": "attn_norm", "before_inner": "ffn_norm"}
ENDS = {"tokens": "token_embd", "norm": "output_norm", "head": "output"}
LAYER = "blk.{}.{}"
FACTORS = "rope_freqs.weight"
HARMLESS = ("context_length", "vocab_size")


def architecture(file: weights.Gguf) -> Architecture:
    """Of the fields of a file.

    Raises ValueError for another architecture, and for a field of the model that is not honoured.
    """
    kind = file.field("general.architecture")
    if kind != "llama":
        raise ValueError(
            f"{file.path} is a {kind} model, and of GGUF llama alone is read; give its Hugging "
            "Face folder."
        )
    taken = set()

    def field(name, default=None):
        taken.add(f"llama.{name}")
        return file.field(f"llama.{name}", default)

    found = {tensor.name: tensor for tensor in file.reader.tensors}
    scaling = None
    if FACTORS in found:
        scaling = Each(tuple(np.asarray(found[FACTORS].data, np.float64).reshape(-1).tolist()))
    heads, width = field("attention.head_count"), field("embedding_length")
    head_width = field("attention.key_length", width // heads)
    sight = Sight(Rope(field("rope.freq_base", 10_000.0), head_width, scaling))
    size = DecoderSize(
        vocabulary=len(file.field("tokenizer.ggml.tokens")),
        width=width,
        inner=field("feed_forward_length"),
        layers=field("block_count"),
        heads=heads,
        key_heads=field("attention.head_count_kv", heads),
        head_width=head_width,
        sights=(sight,),
    )
    eps = field("attention.layer_norm_rms_epsilon")
    # Values at which these change nothing.
    still = {
        "attention.value_length": head_width,
        "rope.dimension_count": head_width,
        "rope.scaling.type": "none",
        "attention.causal": True,
    }
    for name in file.reader.fields:
        short = name.removeprefix("llama.")
        if short == name or name in taken or short in HARMLESS:
            continue
        value = file.field(name)
        if short not in still or value != still[short]:
            raise ValueError(
                f"{file.path} has {name}={value!r}, which is not computed here; give the Hugging "
                "Face folder of the model."
            )
    return Architecture(
        size, (), f"{ENDS['head']}.weight" not in found, eps, NORMS, kernels=KERNELS, ends=ENDS,
        layer=LAYER,
    )  # fmt: skip


def unpermuted(file: weights.Gguf, width: int) -> Iterable[tuple[str, np.ndarray]]:
    """The tensors of a file, with the rows of W_q and W_k, for heads of `width`, as Hugging Face
    orders them."""
    for name, x in file.tensors():
        if name == FACTORS:
            continue
        if name.endswith(("attn_q.weight", "attn_k.weight")):
            pairs = x.reshape(-1, width // 2, 2, x.shape[-1])
            x = pairs.swapaxes(1, 2).reshape(x.shape)
        yield name, x
