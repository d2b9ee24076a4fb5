"""Pretrained decoders: the weights of a local folder in the form that `Decoder` has.

- a Hugging Face folder: `config.json` of one of `FAMILIES`, and safetensors, whole or in shards
- a folder with one GGUF file of `gguf_models.KINDS`, such as SmolLM2 of `weights.find("smollm2")`

What is read is computed or the folder is refused: no key of `config.json` and no tensor is passed
over but those that are known to change nothing. Tokenizers are those of `weights.tokenizer`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp

from ... import weights
from ...check import one_of
from .assembled import assembled
from .decoder import Decoder
from .families import (
    gemma,
    gguf_models,
    granite,
    llama,
    mistral,
    olmo,
    phi,
    qwen,
    smollm,
)
from .families.architecture import Architecture
from .settings import Settings, family

DTYPES = ("float32", "bfloat16")
# By the `model_type` of a config.json.
FAMILIES: dict[str, Callable[[Settings], Architecture]] = {
    "llama": llama.architecture,
    "mistral": mistral.architecture,
    "qwen2": qwen.qwen2,
    "qwen3": qwen.qwen3,
    "gemma": gemma.gemma,
    "gemma2": gemma.gemma2,
    "gemma3_text": gemma.gemma3,
    "phi3": phi.architecture,
    "smollm3": smollm.architecture,
    "olmo2": olmo.architecture,
    "granite": granite.architecture,
}


def load_decoder(source: str | Path, dtype: str = "float32") -> Decoder:
    """The decoder of a known name or a local folder. Nothing is downloaded.

    Args:
        source: `smollm2`, or a folder, of Hugging Face or with one GGUF file.
        dtype: of its weights.

    Raises:
        FileNotFoundError: where there is nothing.
        ValueError: for a family that is not known, for a key of its configuration or a tensor that
            is not computed here, and for an unknown dtype.

    Example:
        >>> decoder = models.load_decoder(decoder_folder, "bfloat16")
    """
    one_of("load_decoder", "dtype", dtype, DTYPES)
    folder = weights.find(source)
    path = weights.gguf_file(folder)
    if path is not None:
        file = weights.gguf(path)
        made = gguf_models.architecture(file)
        found = gguf_models.tensors(file, made)
        decoder = assembled(made, found, f"{path}", jnp.dtype(dtype))
        decoder.fused = gguf_models.fused(made)
        return decoder
    made = architecture(folder)
    if made.both:
        raise ValueError(
            f"{folder}: config.json has use_bidirectional_attention=True, which no decoder does; "
            "read it by models.load_encoder."
        )
    return assembled(made, weights.tensors(folder).items(), f"{folder}", jnp.dtype(dtype))


def load_llama(source: str | Path, dtype: str = "float32") -> Decoder:
    """`load_decoder`, by the name from when Llama was the only family.

    Args:
        source: as in `load_decoder`.
        dtype: as in `load_decoder`.

    Raises:
        FileNotFoundError: as `load_decoder`.
        ValueError: as `load_decoder`.

    Example:
        >>> decoder = models.load_llama(decoder_folder, "bfloat16")
    """
    return load_decoder(source, dtype)


def architecture(folder: Path) -> Architecture:
    """What the `config.json` of a Hugging Face folder says.

    Raises ValueError for a family that is not known, and for a key that is not honoured.
    """
    said = Settings(weights.config(folder), f"{folder / 'config.json'}")
    if "quantization_config" in said.said:
        said.refuse("quantization_config", "give floats, and quantise them by models.quantised")
    made = family(said, FAMILIES)
    said.done()
    return made
