"""Pretrained decoders: the weights of a local folder in the form that `Llama` has.

- a Hugging Face folder: `config.json` of a Llama model and safetensors, whole or in shards
- a folder with one GGUF file of a Llama model, such as SmolLM2 of `weights.find("smollm2")`. GGUF
  keeps the rows of W_q and W_k in the order that turns neighbours (2i, 2i + 1); they are put back
  in the order that turns halves (i, i + d/2), so that one `rope` serves both.

Their tokenizers are those of `weights.tokenizer`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ... import weights
from ...check import one_of
from .layers import Linear
from .llama import KERNELS, Block, Llama, LlamaSize

DTYPES = ("float32", "bfloat16")
# Our name of a layer's tensor -> its name in a Hugging Face folder, and in GGUF.
NAMES = {
    "query": ("self_attn.q_proj", "attn_q"),
    "key": ("self_attn.k_proj", "attn_k"),
    "value": ("self_attn.v_proj", "attn_v"),
    "output": ("self_attn.o_proj", "attn_output"),
    "gate": ("mlp.gate_proj", "ffn_gate"),
    "up": ("mlp.up_proj", "ffn_up"),
    "down": ("mlp.down_proj", "ffn_down"),
    "before": ("input_layernorm", "attn_norm"),
    "after": ("post_attention_layernorm", "ffn_norm"),
}
ENDS = {
    "tokens": ("model.embed_tokens.weight", "token_embd.weight"),
    "norm": ("model.norm.weight", "output_norm.weight"),
    "head": ("lm_head.weight", "output.weight"),
}


def load_llama(source: str | Path, dtype: str = "float32") -> Llama:
    """The decoder of a known name or a local folder. Nothing is downloaded.

    Args:
        source: `smollm2`, or a folder, of Hugging Face or with one GGUF file.
        dtype: of its weights.

    Raises:
        FileNotFoundError: where there is nothing.
        ValueError: for a model that is no Llama or has parts that are not computed here, and for an
            unknown dtype.

    Example:
        >>> decoder = models.load_llama(decoder_folder, "bfloat16")
    """
    one_of("load_llama", "dtype", dtype, DTYPES)
    folder = weights.find(source)
    path = weights.gguf_file(folder)
    if path is None:
        size = size_of(weights.config(folder), folder)
        found = weights.tensors(folder)
        return assembled(size, found.items(), 0, f"{folder}", jnp.dtype(dtype))
    file = weights.gguf(path)
    size = gguf_size(file)
    return assembled(size, unpermuted(file, size), 1, f"{path}", jnp.dtype(dtype))


def size_of(config: dict[str, Any], folder: Path) -> LlamaSize:
    """The size in a Hugging Face `config.json`."""
    heads = config.get("num_attention_heads", 0)
    rope = config.get("rope_parameters") or {}
    scaling = config.get("rope_scaling") or rope
    unknown = {
        "model_type": config.get("model_type") != "llama",
        "hidden_act": config.get("hidden_act", "silu") != "silu",
        "attention_bias": config.get("attention_bias", False),
        "mlp_bias": config.get("mlp_bias", False),
        "rope_scaling": scaling.get("rope_type", scaling.get("type", "default")) != "default",
    }
    for name in (name for name, wrong in unknown.items() if wrong):
        raise ValueError(
            f"{folder / 'config.json'} has {name}={config.get(name)}, which is not computed here; "
            "use a Llama model with silu, no biases and plain rotary angles."
        )
    try:
        return LlamaSize(
            vocabulary=config["vocab_size"],
            width=config["hidden_size"],
            inner=config["intermediate_size"],
            layers=config["num_hidden_layers"],
            heads=heads,
            key_heads=config.get("num_key_value_heads") or heads,
            head_width=config.get("head_dim") or config["hidden_size"] // heads,
            theta=float(config.get("rope_theta") or rope.get("rope_theta") or 10_000.0),
            eps=float(config.get("rms_norm_eps", 1e-6)),
            tied=bool(config.get("tie_word_embeddings", False)),
        )
    except KeyError as error:
        raise ValueError(
            f"{folder / 'config.json'} has no {error}; give the config.json of a Llama model."
        ) from None


def gguf_size(file: weights.Gguf) -> LlamaSize:
    """The size in the fields of a GGUF file."""
    kind = file.field("general.architecture")
    if kind != "llama":
        raise ValueError(f"{file.path} is a {kind} model; give one of the Llama family.")
    heads, width = (file.field(f"llama.{n}") for n in ("attention.head_count", "embedding_length"))
    names = {tensor.name for tensor in file.reader.tensors}
    if "rope_freqs.weight" in names:
        raise ValueError(f"{file.path} scales its rotary angles; use a model with plain ones.")
    return LlamaSize(
        vocabulary=len(file.field("tokenizer.ggml.tokens")),
        width=width,
        inner=file.field("llama.feed_forward_length"),
        layers=file.field("llama.block_count"),
        heads=heads,
        key_heads=file.field("llama.attention.head_count_kv", heads),
        head_width=file.field("llama.attention.key_length", width // heads),
        theta=file.field("llama.rope.freq_base", 10_000.0),
        eps=file.field("llama.attention.layer_norm_rms_epsilon"),
        tied=ENDS["head"][1] not in names,
    )


def unpermuted(file: weights.Gguf, size: LlamaSize) -> Iterable[tuple[str, np.ndarray]]:
    """The tensors of a GGUF file, with the rows of W_q and W_k as Hugging Face orders them."""
    for name, x in file.tensors():
        if name.endswith(("attn_q.weight", "attn_k.weight")):
            pairs = x.reshape(-1, size.head_width // 2, 2, x.shape[-1])
            x = pairs.swapaxes(1, 2).reshape(x.shape)
        yield name, x


def assembled(
    size: LlamaSize, found: Iterable[tuple[str, np.ndarray]], kind: int, where: str, dtype
) -> Llama:
    """The model of the tensors `found`, which are named as in column `kind` of `NAMES`.

    Raises ValueError for a tensor that is missing or of another shape than `size` says.
    """
    layer = ("model.layers.{}.{}.weight", "blk.{}.{}.weight")[kind]
    place = {ours[kind]: (name, None) for name, ours in ENDS.items()}
    for i in range(size.layers):
        place |= {layer.format(i, ours[kind]): (name, i) for name, ours in NAMES.items()}
    if size.tied:
        place.pop(ENDS["head"][kind])
    lead, ends = (size.layers,), (size.vocabulary, size.width)
    full = {name: np.empty((*lead, *_ends(size, name)), dtype) for name in KERNELS}
    full |= {name: np.empty((*lead, size.width), dtype) for name in ("before", "after")}
    full |= {"tokens": np.empty(ends, dtype), "norm": np.empty(size.width, dtype)}
    full |= {} if size.tied else {"head": np.empty(ends[::-1], dtype)}
    for name, x in found:
        if name not in place:
            continue
        ours, i = place.pop(name)
        target = full[ours] if i is None else full[ours][i]
        x = x.T if ours in KERNELS or ours == "head" else x
        if x.shape != target.shape:
            raise ValueError(
                f"{where}: {name} has shape {x.shape[::-1]}, and the sizes given there ask for "
                f"{target.shape[::-1]}; fetch it again."
            )
        target[...] = x
    if place:
        raise ValueError(f"{where} lacks {', '.join(sorted(place)[:3])}; fetch it again.")
    made = {name: jnp.asarray(x) for name, x in full.items()}
    kernels = {name: Linear(made[name]) for name in KERNELS}
    block = Block(size, kernels, made["before"], made["after"])
    head = None if size.tied else Linear(made["head"])
    return Llama(size, made["tokens"], block, made["norm"], head)


def _ends(size: LlamaSize, name: str) -> tuple[int, int]:
    inputs, outputs = KERNELS[name]
    return getattr(size, inputs), getattr(size, outputs)
