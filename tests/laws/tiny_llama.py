"""A decoder of random weights, its Hugging Face folder, and items as prompts."""

import functools
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from fedjax_rec.models import Decoder, LlamaSize, llama
from fedjax_rec.models.transformers.families.architecture import BEFORE, ENDS, KERNEL_NAMES

VOCABULARY, USERS = 500, 3


def decoder(vocabulary: int) -> Decoder:
    return llama(nnx.Rngs(0), LlamaSize(vocabulary, 16, 24, 2, 2, 1, 8))


def tensors(model: Decoder) -> dict[str, np.ndarray]:
    """By the names of Hugging Face; kernels are [out, in]."""
    out = {ENDS["tokens"]: model.tokens[...], ENDS["norm"]: model.norm.scale[...]}
    if model.head is not None:
        out[ENDS["head"]] = model.head.kernel[...].T
    for ours, theirs in {**KERNEL_NAMES, **BEFORE}.items():
        part = getattr(model.layers, ours)
        value = part.scale[...] if ours in BEFORE else part.kernel[...].swapaxes(1, 2)
        for i, x in enumerate(value):
            out[f"model.layers.{i}.{theirs}"] = x
    out = {f"{name}.weight": x for name, x in out.items()}
    return {name: np.ascontiguousarray(np.asarray(x, np.float32)) for name, x in out.items()}


def write(place: Path, model: Decoder, **changes) -> Path:
    """The folder of `model`, with `changes` in its config.json."""
    size = model.size
    config = {
        "model_type": "llama", "hidden_act": "silu", "vocab_size": size.vocabulary,
        "hidden_size": size.width, "intermediate_size": size.inner,
        "num_hidden_layers": size.layers, "num_attention_heads": size.heads,
        "num_key_value_heads": size.key_heads, "head_dim": size.head_width,
        "rope_theta": size.sights[0].rope.theta, "rms_norm_eps": model.norm.eps,
        "tie_word_embeddings": model.head is None,
    }  # fmt: skip
    (place / "config.json").write_text(json.dumps({**config, **changes}))
    save_file(tensors(model), place / "model.safetensors")
    return place


@functools.cache
def folder() -> str:
    """Of a decoder whose words are the numbers below `VOCABULARY`."""
    place = Path(tempfile.mkdtemp())
    words = models.WordLevel({str(i): i for i in range(VOCABULARY)}, unk_token="0")
    made = Tokenizer(words)
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(place / "tokenizer.json"))
    return str(write(place, decoder(VOCABULARY)))


def prompts(items: int) -> dict[str, np.ndarray]:
    """Each item is a prompt: itself, two vectors where they are wanted, and one token behind;
    beside it that token alone."""
    tokens = np.stack([np.arange(items), np.full(items, items)], 1).astype(np.int32)
    places = {"soft": np.tile(np.int32([1, 2]), (items, 1)), "item": np.arange(items)}
    places["user"] = places["item"] % USERS
    length = np.full(items, 2, np.int32)
    beside = {"prior_tokens": tokens[:, 1:], "prior_length": np.full(items, 1, np.int32)}
    return {"tokens": tokens, "length": length, "prompt": np.arange(items), **places, **beside}


@functools.cache
def vectors(items: int) -> str:
    """A folder as `fedjax-rec export` writes one, with vectors of users and items."""
    place, rng = Path(tempfile.mkdtemp()), np.random.default_rng(0)
    of = lambda *shape: np.float32(rng.normal(size=shape))
    found = {"private/user": of(USERS, 1, 4), "shared/item": of(items, 4)}
    save_file(found, place / "weights.safetensors")
    return str(place)


def as_prompts(kind):
    """Batches of items as batches of their prompts."""

    def draw(seed, data, q):
        batch, every = kind.draw(seed, data, q), prompts(data.store.num_items)
        return {**batch, **{name: jnp.asarray(x)[batch["items"]] for name, x in every.items()}}

    return replace(kind, draw=draw)
